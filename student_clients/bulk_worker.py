"""What runs on Ray's side of `bulk.py`: the workers that ask the student, and the stores of the command's machine as they see them."""

from __future__ import annotations

import asyncio
import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from exchange.command import RunError
from exchange.protocols import SamplingParams
from exchange.records import Message
from exchange.settings import SettingError
from store import StoreError, open_store
from student_clients import BudgetConfig, StudentConfig, make_student
from student_clients.errors import StudentError
from student_clients.ledger import CountingStudent, StudentStats


class Worker:
    """One of Ray's processes. `keeper` is the handle of a `Keeper`, `kept` names its stores, `config` and `budget` are JSON."""

    def __init__(
        self,
        *,
        keeper: Any,
        kept: Sequence[str],
        config: str,
        budget: str | None,
        environment: Mapping[str, str],
        n: int,
        sample_index: int,
    ) -> None:
        os.environ.update(environment)
        self._config = StudentConfig.model_validate_json(config)
        self._budget = BudgetConfig.model_validate_json(budget) if budget is not None else None
        self._stores = {name: functools.partial(KeptBeside, keeper, name) for name in kept}
        self._n, self._sample_index = n, sample_index
        self._student: CountingStudent | None = None
        self._told = StudentStats()
        self._ended: dict[str, str] | None = None
        """Why nothing more can be asked: the budget is spent, or the student cannot start."""

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """{"number", "asked"} in; {"number", "answer", "took"} out, each answer {"completions"}, {"error", "text"} or {"ended"}."""
        answers = asyncio.run(self._all([json.loads(asked) for asked in batch["asked"]]))
        stats = self._student.stats if self._student is not None else self._told
        took = {name: amount - asdict(self._told)[name] for name, amount in asdict(stats).items()}
        self._told = stats
        return {
            "number": batch["number"],
            "answer": [json.dumps(answer) for answer in answers],
            "took": [json.dumps(took), *["{}"] * (len(answers) - 1)],
        }

    async def _all(self, batch: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        if self._student is None and self._ended is None:
            try:
                account, cache = self._stores.get("account"), self._stores.get("cache")
                student = make_student(self._config, self._budget, account, cache=cache, shared=True)
                await student.check()
                self._student = student
            except (SettingError, RunError, StudentError) as error:
                self._ended = {"kind": "RunError", "text": f"a Ray worker's student cannot start: {error}"}
        return await asyncio.gather(*(self._one(asked) for asked in batch))

    async def _one(self, asked: dict[str, Any]) -> dict[str, Any]:
        if self._student is None or self._ended is not None:
            return {"ended": self._ended}
        messages = [Message.model_validate(message) for message in asked["messages"]]
        params = SamplingParams.model_validate(asked["params"])
        try:
            completions = await self._student.complete(messages, params, n=self._n, sample_index=self._sample_index)
        except StudentError as error:
            return {"error": type(error).__name__, "text": str(error)}
        except RunError as error:
            self._ended = {"kind": type(error).__name__, "text": str(error)}
            return {"ended": self._ended}
        return {"completions": [completion.model_dump(mode="json") for completion in completions]}


class Keeper:
    """An actor beside the command: the stores of its machine, for workers on any."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._stores = {name: open_store(url) for name, url in urls.items()}

    async def call(self, name: str, method: str, *args: Any, **named: Any) -> Any:
        return await getattr(self._stores[name], method)(*args, **named)


class KeptBeside:
    """A store that lies where the command runs, as a worker sees it."""

    def __init__(self, keeper: Any, name: str) -> None:
        self.url = f"the command's {name}"
        self._keeper = keeper
        self._name = name

    async def _call(self, method: str, *args: Any, **named: Any) -> Any:
        from ray.exceptions import RayError, RayTaskError

        try:
            return await self._keeper.call.remote(self._name, method, *args, **named)
        except RayTaskError as error:
            raise error.cause from None  # what the store itself raised
        except RayError as error:
            raise StoreError(f"{self.url} cannot be reached ({last_line(error)})") from None

    async def get(self, key: str) -> bytes | None:
        return (await self.get_many([key]))[0]

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return list(await self._call("get_many", keys))

    async def put(self, key: str, value: bytes, *, expire_s: float | None = None) -> None:
        await self._call("put", key, value, expire_s=expire_s)

    async def delete(self, key: str) -> None:
        await self._call("delete", key)

    async def add(self, account: str, changes: Mapping[str, int], *, limit: int | None = None) -> dict[str, int] | None:
        after: dict[str, int] | None = await self._call("add", account, changes, limit=limit)
        return after

    async def totals(self, account: str) -> dict[str, int]:
        return dict(await self._call("totals", account))

    async def check(self) -> None:
        await self._call("check")

    async def aclose(self) -> None:
        pass


def last_line(error: BaseException) -> str:
    """The end of what Ray says, which is long: the error itself."""
    return str(error).strip().split("\n")[-1]
