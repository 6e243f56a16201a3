"""Answers in bulk: a whole set of questions is spread over the workers of a Ray cluster, or over processes of this machine.

`--ray.workers=8` of `weak_to_strong.w2sr` (the weak reasoner's chains, the arms), `teacher.evaluate` and the other evaluations. An arm's
instructions are written and its answers graded as ever, by the command itself; between the two a set of conversations is a Ray Data
dataset whose workers (`bulk_worker.py`) are the configured student. Cache and account stay with the command: an actor beside it opens
them, and workers on any machine read and write through it. So an answer is kept as soon as it is there, all workers spend from one
budget, and a killed job asks only what it lacks. The command's ledger counts what the workers asked.

Needs the extra: pip install 'wst-teacher[ray]', on every machine of the cluster.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import Field, field_validator

from exchange.command import RunError
from exchange.protocols import SamplingParams, StudentClient
from exchange.records import Completion, Message
from exchange.settings import SettingError, Settings
from store import Store
from student_clients import BudgetConfig, StudentConfig, errors
from student_clients.budget import BudgetExhausted, price_of
from student_clients.bulk_worker import Keeper, Worker, last_line
from student_clients.caching import sample_key
from student_clients.ledger import CountingStudent
from student_clients.pacing import PacingConfig

log = logging.getLogger(__name__)
SAY_EVERY_S = 10.0
Asked = tuple[Sequence[Message], SamplingParams]


class RayConfig(Settings):
    """Workers that answer whole sets of questions; training steps and validation ask by themselves."""

    workers: int = Field(default=2, ge=1)
    """Processes that ask the student at the same time; limits of `pacing` are shared out among them."""
    batch: int = Field(default=64, ge=1)
    """Questions handed to a worker at a time, which it asks at the same time as far as `pacing.concurrency` allows."""
    cpus: float = Field(default=1.0, gt=0)
    """Cores that the cluster sets aside for a worker: 1 where it computes an embedded student, 0.1 where it waits for a server."""
    address: str | None = Field(default=None, min_length=1)
    """The cluster as HOST:PORT, or `auto` for the one that runs on this machine; None = RAY_ADDRESS, else a Ray of the command's own."""

    @field_validator("address")
    @classmethod
    def _on_a_node(cls, address: str | None) -> str | None:
        if address is not None and address.startswith("ray://"):
            raise ValueError("cache and account lie beside the command, so it runs on a machine of the cluster; give HOST:PORT or auto")
        return address


def check_ray(ray: RayConfig | None, *students: StudentConfig) -> None:
    """Raises SettingError where these students cannot answer on Ray workers; nothing is started."""
    if ray is None:
        return
    if any(importlib.util.find_spec(name) is None for name in ("ray", "pyarrow")):
        raise SettingError("ray: Ray is not installed: pip install 'wst-teacher[ray]', or leave ray.* out")
    for student in students:
        if student.kind == "vllm" and student.vllm.launch:
            raise SettingError("ray: vllm.launch would start a server in each worker; start them and name them in vllm.base_urls")
        if student.record is not None:
            raise SettingError(f"ray: record={str(student.record)!r} is written by one process; leave one of the two out")


def in_bulk(
    student: CountingStudent,
    ray: RayConfig | None,
    config: StudentConfig,
    budget: BudgetConfig | None,
    account: Callable[[], Store] | None,
) -> CountingStudent:
    """The student made of `config`, as one that answers sets of questions on Ray's workers; as it is without `ray`. Raises SettingError."""
    check_ray(ray, config)
    return student if ray is None else BulkStudent(student, ray, config, budget, account)


class BulkStudent(CountingStudent):
    """A student that answers a set of questions elsewhere, and single ones here."""

    def __init__(
        self,
        student: CountingStudent,
        ray: RayConfig,
        config: StudentConfig,
        budget: BudgetConfig | None,
        account: Callable[[], Store] | None,
    ) -> None:
        super().__init__(student.client)
        self.ray = ray
        self.config = config
        self.budget = budget
        self.account = account

    async def check(self) -> None:
        """An embedded model is loaded by the workers; whether it can be is found out there."""
        if self.config.kind != "embedded":
            await super().check()

    async def answered(self, asked: Sequence[Asked], *, n: int = 1, sample_index: int = 0) -> StudentClient:
        """A client that gives the answers to these requests, all of which are there when this returns.

        Raises BudgetExhausted or RunError once what was in flight has been kept; a single request that failed is the client's StudentError.
        """
        asked_by_key = {sample_key("", *request, sample_index): request for request in asked}
        rows = [
            {"number": k, "asked": json.dumps({"messages": [m.model_dump() for m in messages], "params": params.model_dump()})}
            for k, (messages, params) in enumerate(asked_by_key.values())
        ]
        keys, found, ended = list(asked_by_key), dict[str, Any](), None
        with _ctrl_c_breaks_off():
            for row in self._rows(rows, n, sample_index):
                answer = json.loads(row["answer"])
                self.ledger.add(**json.loads(row["took"]))
                ended = ended or answer.get("ended")
                found[keys[row["number"]]] = answer
        if ended is not None:
            raise (BudgetExhausted if ended["kind"] == "BudgetExhausted" else RunError)(ended["text"])
        return _Answered(self, found)

    def _rows(self, rows: list[dict[str, Any]], n: int, sample_index: int) -> Iterator[dict[str, Any]]:
        """The rows with their answers, as they come."""
        import ray
        from ray.data import ActorPoolStrategy, DataContext
        from ray.exceptions import RayError

        _start(self.ray)
        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        urls = {"cache": self.config.cache.location()} if self.config.cache.enabled and self.config.kind != "replay" else {}
        if self.budget is not None and self.account is not None and price_of(self.config, self.budget) is not None:
            urls["account"] = self.account().url
        # An embedded student would take every core of the machine, and so would the workers beside it.
        own = {"pacing": shared_out(self.config.pacing, self.ray.workers), "threads": self.config.threads or max(1, int(self.ray.cpus))}
        made = {
            "keeper": _keeper(urls),
            "kept": tuple(urls),
            "config": self.config.model_copy(update=own).model_dump_json(),
            "budget": self.budget.model_dump_json() if self.budget is not None else None,
            "environment": _secrets(self.config),
            "n": n,
            "sample_index": sample_index,
        }
        blocks = math.ceil(len(rows) / self.ray.batch)
        answered = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
            Worker, fn_constructor_kwargs=made, batch_size=self.ray.batch, batch_format="numpy", num_cpus=self.ray.cpus,
            compute=ActorPoolStrategy(size=min(self.ray.workers, blocks)),
        )  # fmt: skip
        said, count = time.monotonic(), 0
        try:
            for row in answered.iter_rows():
                yield row
                count += 1
                if time.monotonic() - said > SAY_EVERY_S:
                    said = time.monotonic()
                    print(f"{self.name}: {count} of {len(rows)} questions answered", file=sys.stderr, flush=True)
        except RayError as error:
            raise RunError(f"ray: a worker failed ({last_line(error)}); what was answered is kept, start it again with --resume") from None


class _Answered:
    """The answers of one set, by request."""

    def __init__(self, student: BulkStudent, found: Mapping[str, dict[str, Any]]) -> None:
        self.name = student.name
        self._student = student
        self._found = found
        self._given: set[str] = set()

    async def complete(self, messages: Sequence[Message], params: SamplingParams, *, n: int = 1, sample_index: int = 0) -> list[Completion]:
        key = sample_key("", messages, params, sample_index)
        answer = self._found[key]
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["text"])
        completions = [Completion.model_validate(held) for held in answer["completions"]]
        if key in self._given:  # asked once for several questions that are equal
            self._student.ledger.add(cache_hits=n)
            return [completion.model_copy(update={"cached": True, "cost_usd": 0.0}) for completion in completions]
        self._given.add(key)
        return completions

    async def aclose(self) -> None:
        pass


def shared_out(pacing: PacingConfig, workers: int) -> PacingConfig:
    """What one of so many workers may do, so that all together keep the limits; at least one of each."""
    shares = ("concurrency", "requests_per_minute", "tokens_per_minute", "requests_per_day", "tokens_per_day")
    held = {name: getattr(pacing, name) for name in shares}
    return pacing.model_copy(update={name: max(1, limit // workers) for name, limit in held.items() if limit is not None})


def _secrets(config: StudentConfig) -> dict[str, str]:
    """What the student reads from the environment; a worker on another machine has not got it."""
    named = [config.api_key_env, *(value.removeprefix("env:") for value in config.extra_headers.values() if value.startswith("env:"))]
    return {name: os.environ[name] for name in named if name in os.environ}


def _keeper(urls: Mapping[str, str]) -> Any:
    """The actor, on the machine of this process."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Keeper).options(num_cpus=0, scheduling_strategy=here).remote(dict(urls))


def _start(settings: RayConfig) -> None:
    """Join the cluster, or start one on this machine for the life of this process. Raises RunError where there is none."""
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = settings.address or os.environ.get("RAY_ADDRESS") or None
    own = {} if address else {"num_cpus": math.ceil(settings.workers * settings.cpus), "include_dashboard": False}
    sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "local", logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RunError(f"ray.address={address!r}: no cluster answers there ({last_line(error)})") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, sigterm)  # Ray takes it for itself, and the command would stop without a word
    cores = ray.cluster_resources().get("CPU", 0.0)
    if cores < settings.workers * settings.cpus:
        log.warning("ray: %d workers of %g cores, and the cluster has %g cores: some wait", settings.workers, settings.cpus, cores)


@contextmanager
def _ctrl_c_breaks_off() -> Iterator[None]:
    """asyncio's own handler only cancels a task, which here waits for Ray without ever looking."""
    asyncios = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not isinstance(asyncios, functools.partial):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, asyncios)
