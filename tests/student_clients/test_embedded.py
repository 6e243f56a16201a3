"""The embedded student on a tiny random model, against transformers' own `generate`."""

import asyncio
import itertools
import json
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exchange.protocols import SamplingParams
from exchange.records import Message
from student_clients import embedded, embedded_decoding, errors
from student_clients.embedded import EmbeddedStudent
from student_clients.embedded_decoding import Row
from student_clients.ledger import CountingStudent

GREEDY = SamplingParams(max_tokens=12)
TEXTS = [("ab" * i + str(i))[: 3 * i + 1] for i in range(1, 13)]


def turn(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


async def answers(student: EmbeddedStudent | CountingStudent, texts: list[str], params: SamplingParams = GREEDY) -> list[str | None]:
    got = await asyncio.gather(*(student.complete(turn(text), params) for text in texts))
    return [completions[0].text for completions in got]


async def outcomes(student: EmbeddedStudent, texts: list[str]) -> list[object]:
    return list(await asyncio.gather(*(student.complete(turn(text), GREEDY) for text in texts), return_exceptions=True))


def generated_one_by_one(folder: Path, texts: list[str]) -> list[str]:
    """What transformers' greedy `generate` answers to each text alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    expected = []
    for text in texts:
        ids = tokenizer(text + "<end>", return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=12, do_sample=False)
        expected.append(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    return expected


@pytest.mark.parametrize(("batch_size", "room"), [(1, 32), (5, 32), (64, 32), (64, 1), (5, 3)])
def test_batches_give_what_generate_gives_one_by_one(tiny_model: Path, batch_size: int, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_decoding, "ROOM", room)
    expected = generated_one_by_one(tiny_model, TEXTS)
    assert len(set(expected)) == len(TEXTS)
    student = EmbeddedStudent(tiny_model, batch_size=batch_size)
    assert asyncio.run(answers(student, TEXTS)) == expected
    asyncio.run(student.aclose())


def test_an_end_token_stops_an_answer_and_is_counted(tiny_model: Path) -> None:
    from student_clients.embedded_decoding import decode

    student = EmbeddedStudent(tiny_model)
    asyncio.run(student.check())
    loaded = student._loaded
    assert loaded is not None

    def continued(end_ids: frozenset[int]) -> list[Row]:
        rows = [Row([5 + i, 9], 12, 0.0, random.Random()) for i in range(8)]
        decode(loaded.model, rows, end_ids, lambda: True)
        return rows

    free = continued(frozenset())
    assert [(len(row.new_ids), row.finish_reason) for row in free] == [(12, "length")] * 8
    end = free[0].new_ids[4]
    for row, stopped in zip(free, continued(frozenset({end})), strict=True):
        ends = end in row.new_ids
        assert stopped.new_ids == (row.new_ids[: row.new_ids.index(end) + 1] if ends else row.new_ids)
        assert stopped.finish_reason == ("stop" if ends else "length")
    asyncio.run(student.aclose())


def test_equal_greedy_requests_in_flight_are_computed_once(tiny_model: Path) -> None:
    student = CountingStudent(EmbeddedStudent(tiny_model))

    async def body() -> None:
        got = await asyncio.gather(*(student.complete(turn(text), GREEDY, n=2) for text in ("a", "b", "a")))
        flat = [completion for completions in got for completion in completions]
        assert [completion.cached for completion in flat] == [False, True, False, True, True, True]
        assert len({completion.text for completion in flat}) == 2

    asyncio.run(body())
    assert student.stats.as_dict() == {
        "calls": 2, "cache_hits": 4, "failures": 0, "prompt_tokens": 4, "completion_tokens": 24, "cost_usd": 0.0,
    }  # fmt: skip
    asyncio.run(student.aclose())


def test_a_seed_repeats_an_answer_whatever_else_is_in_the_batch(tiny_model: Path) -> None:
    student = EmbeddedStudent(tiny_model)
    params = SamplingParams(temperature=1.5, max_tokens=12, seed=3)

    async def body() -> None:
        alone = await student.complete(turn("abc"), params, n=3)
        assert len({completion.text for completion in alone}) == 3
        crowd, *_ = await asyncio.gather(student.complete(turn("abc"), params, n=3), answers(student, TEXTS))
        assert [completion.text for completion in crowd] == [completion.text for completion in alone]
        (last,) = await student.complete(turn("abc"), params, sample_index=2)
        assert last.text == alone[2].text

    asyncio.run(body())
    asyncio.run(student.aclose())


def test_sampling_follows_the_softmax() -> None:
    import torch

    from student_clients.embedded_decoding import _next_tokens

    rng = random.Random(0)
    rows = [Row([1], 1, 2.0, rng) for _ in range(4000)]
    logits = torch.tensor([[0.0, -1e9, 2.0, 4.0]]).expand(4000, -1)
    shares = torch.bincount(_next_tokens(logits, rows), minlength=4) / 4000
    assert shares[1] == 0
    assert torch.allclose(shares, torch.tensor([0.0, -1e9, 1.0, 2.0]).softmax(-1), atol=0.03)


def test_a_prompt_that_fills_the_context_fails_alone(tiny_model: Path) -> None:
    student = CountingStudent(EmbeddedStudent(tiny_model))

    async def body() -> None:
        too_long, fits = await asyncio.gather(
            student.complete(turn("a" * 63), GREEDY), student.complete(turn("a" * 62), GREEDY), return_exceptions=True
        )
        assert isinstance(too_long, errors.StudentBadRequest)
        assert "64 tokens" in str(too_long)
        assert isinstance(fits, list)
        assert (fits[0].prompt_tokens, fits[0].completion_tokens, fits[0].finish_reason) == (63, 1, "length")

    asyncio.run(body())
    assert (student.stats.calls, student.stats.failures) == (1, 1)
    asyncio.run(student.aclose())


def test_two_loops_at_the_same_time_and_one_after_them(tiny_model: Path) -> None:
    student = EmbeddedStudent(tiny_model)
    got: list[list[str | None]] = []
    threads = [threading.Thread(target=lambda: got.append(asyncio.run(answers(student, TEXTS)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got[0] == got[1] == asyncio.run(answers(student, TEXTS))
    asyncio.run(student.aclose())


def test_closed_means_closed(tiny_model: Path) -> None:
    student = EmbeddedStudent(tiny_model)
    asyncio.run(student.aclose())
    with pytest.raises(errors.StudentUnreachable, match="was closed"):
        asyncio.run(student.complete(turn("a"), GREEDY))


def test_check_says_what_is_wrong_with_a_model(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    nothing = EmbeddedStudent(tmp_path / "nothing")
    with pytest.raises(errors.StudentUnknownModel, match="cannot load"):
        asyncio.run(nothing.check())
    shutil.copytree(tiny_model, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    base = EmbeddedStudent(tmp_path / "base")
    with pytest.raises(errors.StudentUnknownModel, match="has no chat template"):
        asyncio.run(base.check())
    for student in (nothing, base):
        asyncio.run(student.aclose())


@pytest.mark.parametrize(
    ("rows", "batch_size", "threads", "sizes"),
    [
        (0, 128, 2, []),
        (1, 128, 2, [1]),
        (40, 128, 8, [40]),
        (64, 128, 8, [32, 32]),
        (192, 128, 2, [96, 96]),
        (200, 128, 1, [100, 100]),
        (129, 128, 8, [33, 33, 33, 30]),
        (600, 128, 2, [100] * 6),
        (3, 1, 2, [1, 1, 1]),
    ],
)
def test_batches_are_shared_evenly_among_threads_where_they_stay_large(rows: int, batch_size: int, threads: int, sizes: list[int]) -> None:
    given = {i: Row([1] * (1 + i % 7), 4, 0.0, random.Random(0)) for i in range(rows)}
    found = list(embedded._batches(given, batch_size, threads))
    assert [len(batch) for batch in found] == sizes
    assert sorted(i for batch in found for i in batch) == list(range(rows))
    lengths = [len(given[i].prompt_ids) for batch in found for i in batch]
    assert lengths == sorted(lengths)


def test_all_batches_at_a_time_stay_within_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "MAX_BATCH_TOKENS", 100)
    given = {i: Row([1] * 10, 4, 0.0, random.Random(0)) for i in range(20)}
    assert [len(batch) for batch in embedded._batches(given, 128, 1)] == [10, 10]
    assert [len(batch) for batch in embedded._batches(given, 128, 2)] == [5, 5, 5, 5]


def test_threads_answer_what_one_does_and_a_batch_that_fails_stops_the_others(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{i}" + "ab" * (i % 9) for i in range(70)]
    several, one = EmbeddedStudent(tiny_model, batch_size=8, threads=3), EmbeddedStudent(tiny_model, batch_size=8, threads=1)
    assert asyncio.run(answers(several, texts)) == asyncio.run(answers(one, texts))
    begun, stopped, calls = threading.Event(), threading.Event(), itertools.count()

    def failing(model: object, rows: list[Row], end_ids: frozenset[int], go_on: Callable[[], bool]) -> None:
        if next(calls) == 0:
            assert begun.wait(20)
            raise RuntimeError("no memory")
        begun.set()
        while go_on():
            time.sleep(0.01)
        stopped.set()

    with monkeypatch.context() as patched:
        patched.setattr(embedded, "decode", failing)
        # All of them are waited for: who asks again while a failure is still being told to the others shares it.
        told = asyncio.run(outcomes(several, texts))
        assert {(type(error), str(error)) for error in told} == {(RuntimeError, "no memory")}
    assert asyncio.run(answers(several, texts[:3])) == asyncio.run(answers(one, texts[:3]))
    assert stopped.wait(20)
    for student in (several, one):
        asyncio.run(student.aclose())


def test_a_model_whose_forward_writes_into_it_computes_one_batch_at_a_time(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "dynamic")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps(config))
    for model, threads in ((tiny_model, 3), (folder, 1)):
        student = EmbeddedStudent(model, threads=3)
        asyncio.run(student.check())
        assert student._loaded is not None and student._loaded.threads == threads
        asyncio.run(student.aclose())
