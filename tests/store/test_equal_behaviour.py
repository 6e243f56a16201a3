"""Whatever is done to them, the shared stores end where memory ends."""

import asyncio
import itertools
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store import LARGEST_AMOUNT, MemoryStore, Store
from tests.store.conftest import Place

KEYS = st.sampled_from(["a", "b", "ü"])
AMOUNTS = st.integers(-20, 20) | st.sampled_from([LARGEST_AMOUNT, -LARGEST_AMOUNT, LARGEST_AMOUNT - 5, 2**53])
STEPS = st.lists(
    st.tuples(st.just("put"), KEYS, st.binary(max_size=20))
    | st.tuples(st.just("get"), KEYS)
    | st.tuples(st.just("get_many"), st.lists(KEYS, max_size=4))
    | st.tuples(st.just("delete"), KEYS)
    | st.tuples(st.just("totals"), KEYS)
    | st.tuples(st.just("add"), KEYS, st.dictionaries(KEYS, AMOUNTS, max_size=3), st.none() | AMOUNTS),
    max_size=12,
)
runs = itertools.count()


async def outcomes(store: Store, steps: list[tuple[Any, ...]], run: int) -> list[object]:
    """What each step gave, a ValueError as its text. Keys and accounts begin with the run's number, so that runs share nothing."""

    def named(key: Any) -> Any:
        return [f"{run:06} {k}" for k in key] if isinstance(key, list) else f"{run:06} {key}"

    given: list[object] = []
    for name, key, *rest in steps:
        options = {"limit": rest.pop()} if name == "add" else {}
        try:
            given.append(await getattr(store, name)(named(key), *rest, **options))
        except ValueError as error:
            given.append(str(error))
    return given


def test_the_same_steps_give_the_same(place: Place) -> None:
    store = place.open()

    @given(STEPS)
    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    def same(steps: list[tuple[Any, ...]]) -> None:
        run = next(runs)
        assert asyncio.run(outcomes(store, steps, run)) == asyncio.run(outcomes(MemoryStore(), steps, run))

    same()
    asyncio.run(store.aclose())
