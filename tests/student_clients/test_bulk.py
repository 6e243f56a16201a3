"""Answers in bulk: what a worker does with a batch, what cannot be spread, and a real Ray of two workers that is killed and goes on."""

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from evaluation.arms import FixedPolicy, run_arm
from exchange.protocols import SamplingParams
from exchange.records import Episode, Message
from exchange.settings import SettingError
from lab.serve import lab_server
from rewards.rubric import RewardConfig, Rubric
from store import open_store
from student_clients import BudgetConfig, StudentConfig, make_student, sampling
from student_clients.budget import BudgetExhausted
from student_clients.bulk import RayConfig, check_ray, in_bulk, shared_out
from student_clients.bulk_worker import Worker
from student_clients.pacing import PacingConfig
from student_clients.token_bounds import prompt_tokens_at_most
from tasks import TASKS, TaskConfig
from tests.requirements import ROOT

RAY = RayConfig(workers=2, batch=8)


def test_limits_are_shared_out_and_none_becomes_nothing() -> None:
    pacing = PacingConfig(concurrency=7, requests_per_minute=100, tokens_per_day=2, max_attempts=3)
    share = shared_out(pacing, 3)
    assert (share.concurrency, share.requests_per_minute, share.tokens_per_day) == (2, 33, 1)
    assert (share.max_attempts, share.tokens_per_minute, share.requests_per_day) == (3, None, None)


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ({"kind": "vllm", "model": "m", "vllm": {"launch": True}}, "name them in vllm.base_urls"),
        ({"record": "calls.jsonl"}, "ray: record='calls.jsonl' is written by one process"),
    ],
)
def test_a_student_that_cannot_be_spread_is_refused(student: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        check_ray(RAY, StudentConfig.model_validate(student))
    check_ray(None, StudentConfig.model_validate(student))


def test_without_the_extra_the_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"pip install 'wst-teacher\[ray\]'"):
        check_ray(RAY)
    with pytest.raises(ValueError, match="runs on a machine of the cluster"):
        RayConfig(address="ray://head:10001")


def worker(**student: Any) -> Worker:
    config = StudentConfig.model_validate({"cache": {"enabled": False}, **student})
    return Worker(keeper=None, kept=(), config=config.model_dump_json(), budget=None, environment={}, n=1, sample_index=0)


def asked(*texts: str) -> dict[str, Any]:
    params = SamplingParams(max_tokens=16).model_dump()
    rows = [{"messages": [Message(role="user", content=text).model_dump()], "params": params} for text in texts]
    return {"number": list(range(len(rows))), "asked": [json.dumps(row) for row in rows]}


def test_what_ends_a_worker_is_an_answer_to_all_that_is_left(free_port: int) -> None:
    found = worker(kind="openai", base_url=f"http://127.0.0.1:{free_port}/v1", model="m")(asked("2 plus 3?", "4 plus 5?"))
    for answer in map(json.loads, found["answer"]):
        assert answer["ended"]["kind"] == "RunError" and "a Ray worker's student cannot start" in answer["ended"]["text"]
    assert found["number"] == [0, 1] and json.loads(found["took"][0])["calls"] == 0 and found["took"][1] == "{}"


def test_a_worker_waits_for_what_the_others_hold(tmp_path: Path) -> None:
    """Nothing in flight here, all of the budget held by another worker, who gives it back."""
    line = {"messages": [{"role": "user", "content": "2 plus 3?"}], "completion": {"text": "5", "prompt_tokens": 1, "completion_tokens": 1}}
    (tmp_path / "recorded.jsonl").write_text(json.dumps(line) + "\n")
    budget = {"usd": 0.0002, "prices": {"m": {"input": 1, "output": 4, "as_of": "2026-11-20"}}}
    waiting = worker(kind="replay", replay=str(tmp_path / "recorded.jsonl"), model="m")
    waiting._budget = BudgetConfig.model_validate(budget)
    store = open_store("memory:")
    waiting._stores = {"account": lambda: store}  # type: ignore[dict-item,return-value]
    asyncio.run(store.add("student", {"held": 200_000}))
    totals = store.totals
    looks = []

    async def looked_at(account: str) -> dict[str, int]:
        looks.append(await totals(account))
        if len(looks) == 2:
            await store.add("student", {"held": -200_000})
        return looks[-1]

    store.totals = looked_at  # type: ignore[method-assign]
    (answer,) = waiting(asked("2 plus 3?"))["answer"]
    assert json.loads(answer)["completions"][0]["text"] == "5" and len(looks) == 2


def ask(url: str, folder: Path, *, usd: float, ray: RayConfig | None, cache: str = "cache.sqlite3") -> dict[str, Any]:
    """Ask sixty questions raw in a run directory of its own; episodes, what the command counted, what the account says."""
    config = StudentConfig.model_validate(
        {"kind": "openai", "base_url": url, "model": "student", "max_tokens": 24, "pacing": {"concurrency": 4},
         "cache": {"url": str(folder / cache)}}
    )  # fmt: skip
    budget = BudgetConfig.model_validate({"usd": usd, "prices": {"student": {"input": 1, "output": 4, "as_of": "2026-11-20"}}})
    account = lambda: open_store(str(folder / f"budget-{usd}.sqlite3"))  # noqa: E731
    student = in_bulk(make_student(config, budget, account), ray, config, budget, account)
    examples = TASKS["lab_arithmetic"].load(TaskConfig(), "test", 60)

    async def all_of_it() -> tuple[list[Episode], str | None]:
        try:
            arm = await run_arm(
                "raw", FixedPolicy(""), [*examples, examples[0]], student=student, params=sampling(config), reward=Rubric(RewardConfig())
            )
            return arm, None
        except BudgetExhausted as error:
            return [], str(error)
        finally:
            await student.aclose()

    episodes, ended = asyncio.run(all_of_it())
    return {
        "graded": [[e.example_id, e.completions[0].text, e.scores[0].value] for e in episodes],
        "dearest": max((budget.prices["student"].nano(prompt_tokens_at_most(e.messages), 24) for e in episodes), default=0),
        "ended": ended,
        "stats": student.stats.as_dict(),
        "account": asyncio.run(account().totals("student")),
    }


def asked_elsewhere(url: str, folder: Path, *more: str) -> list[str]:
    """A command that asks on Ray, once for each of the given arguments, and prints a line of JSON for each."""
    lines = [f"import json, pathlib\nfrom tests.student_clients.test_bulk import RAY, ask\nto = {url!r}, pathlib.Path({str(folder)!r})"]
    lines += [f"print(json.dumps(ask(*to, ray=RAY, {flags})), flush=True)" for flags in more]
    return [sys.executable, "-c", "\n".join(lines)]


@pytest.mark.slow
def test_a_killed_job_goes_on_and_no_worker_pays_twice_or_too_much(tmp_path: Path) -> None:
    with lab_server("arithmetic", "student", delay_s=0.1) as server:
        command = asked_elsewhere(server.url, tmp_path, "usd=2.0", "usd=0.001, cache='other.sqlite3'")
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while server.answered < 20 and process.poll() is None:
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
        at_kill = server.requests
        assert at_kill < 60, "killed too late to show anything"
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        resumed, limited = map(json.loads, done.stdout.splitlines())
        asked_in_all = server.requests
        here = ask(server.url, tmp_path, usd=2.0, ray=None)
        assert server.requests == asked_in_all, "the workers' answers are in the cache of the command"
    # In flight when the job died: two for each worker, paid for perhaps, so that the highest that each could cost stays held.
    assert resumed["stats"]["calls"] <= 60 - 20 + 4 and resumed["stats"]["calls"] + resumed["stats"]["cache_hits"] == 61
    assert resumed["account"]["held"] <= 4 * resumed["dearest"]
    assert resumed["graded"] == here["graded"] and len(here["graded"]) == 61 and here["stats"]["calls"] == 0
    # The budget is one for both workers: nothing above it, and no answer is lost that was paid for.
    assert "give more with --budget.usd" in limited["ended"]
    assert 0 < limited["account"]["spent"] + limited["account"]["held"] <= 1_000_000 and limited["account"]["held"] == 0
    assert asked_in_all - limited["stats"]["calls"] <= 60 + 4, "a question that had its answer was asked again"
