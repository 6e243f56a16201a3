"""`python -m benchmarks.online_ab [--users N] [--kills K]`: online A/B tests end to end, about five minutes on one core.

A real server with the shipped lab teacher and a real Redis; simulated users ask questions of the lab's test split (a quarter of them
drawn from all families, the rest from those that are right raw), the lab student answers what `/instruct` composed, and the users report
whether it was right. Four experiments:

- `advice`: raw against teacher. The true difference is known: every question is also answered both ways outside of the test. Meanwhile
  the server is killed with SIGKILL `--kills` times and Redis once; users who got no answer ask again.
- `same`: raw against raw; an A/A test, which must find nothing.
- `harmful`: raw against a fixed instruction that is wrong for most questions, with a guardrail on wrong answers that must stop it.
- `slow`: raw against the teacher, with a guardrail on `latency_ms` that no teacher can keep.

One user in twenty never reports, one in twenty reports twice, one in fifty then claims the opposite. A checker compares what was
acknowledged with the server's file and with what a new replica reads from Redis. Writes `benchmarks/results/online_ab.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from benchmarks.results_file import save
from benchmarks.service_overhead import free_port
from benchmarks.service_process import ServiceProcess, compare, persistent
from evaluation.online import data_topic
from exchange.compose import compose
from exchange.protocols import SamplingParams
from exchange.records import Example, Instruction, Message
from lab.weights_folder import model_dir
from rewards.correctness import Grader, grade_answer
from store import EventLog
from student_clients.embedded import EmbeddedStudent
from tasks import lab_arithmetic
from teacher.run_directory import git_commit

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

NAME = "online_ab"
DIAL = 0.25
CONCURRENCY = 16
WRONG_FOR_MOST = "This time, take one number away from the other. Begin from the second number."
RAW = {"name": "raw", "raw": True, "weight": 0.5}
CORRECT = {"name": "correct", "kind": "binary"}


@dataclass
class World:
    """What the simulated users share."""

    client: httpx2.AsyncClient
    service: ServiceProcess
    questions: Sequence[Example]
    student: EmbeddedStudent
    grader: Grader
    rng: random.Random
    answers: dict[str, float] = field(default_factory=dict)
    """Messages and question -> whether the student's (greedy) answer is right."""
    exposures: dict[str, list[str]] = field(default_factory=dict)
    """Experiment -> request ids of replies that named it."""
    outcomes: dict[str, dict[str, float]] = field(default_factory=dict)
    """Experiment -> request id and metric -> the value that was acknowledged."""
    duplicates: int = 0
    conflicts: int = 0


async def right(world: World, question: Example, messages: Sequence[Message]) -> float:
    key = json.dumps([question.id, *(message.content for message in messages)])
    if key not in world.answers:
        (completion,) = await world.student.complete(messages, SamplingParams(max_tokens=96))
        score = await grade_answer(world.grader, question, completion)
        assert score.value is not None
        world.answers[key] = score.value
    return world.answers[key]


async def use(world: World, experiment: str, user: int, question: Example) -> None:
    """One question of one user: ask, send to the student, report."""
    request_id = f"{experiment}-{user}-{question.id}"[:64]
    body = {"query": question.query, "unit": f"user-{user}", "experiment": experiment}
    response = await persistent(world.client, "POST", "/instruct", json=body, headers={"x-request-id": request_id})
    reply = response.raise_for_status().json()
    if reply["experiment"] is None:
        return
    world.exposures.setdefault(experiment, []).append(reply["request_id"])
    correct = await right(world, question, [Message(**message) for message in reply["messages"]])
    luck = random.Random(f"{experiment} {user}").random()
    if luck < 0.05:
        return
    for metric, value in (("correct", correct), ("wrong", 1.0 - correct)):
        await tell(world, experiment, reply["request_id"], metric, value, twice=luck > 0.95)
    if luck > 0.98:
        opposite = {"request_id": reply["request_id"], "metric": "correct", "value": 1.0 - correct}
        status = (await persistent(world.client, "POST", "/outcomes", json=opposite)).status_code
        assert status == 409, status
        world.conflicts += 1


async def tell(world: World, experiment: str, request_id: str, metric: str, value: float, *, twice: bool) -> None:
    body = {"request_id": request_id, "metric": metric, "value": value}
    sent = [persistent(world.client, "POST", "/outcomes", json=body) for _ in range(1 + twice)]
    for response in await asyncio.gather(*sent):
        world.duplicates += response.raise_for_status().json()["duplicate"]
    world.outcomes.setdefault(experiment, {})[f"{request_id} {metric}"] = value


async def run_experiment(
    world: World, definition: dict[str, Any], users: int, kill_at: Sequence[int] = (), redis: RedisServer | None = None
) -> None:
    """All users of one experiment, a few at a time; the server is killed when that many users have begun."""
    made = await persistent(
        world.client, "POST", "/experiments", json={"control": "raw", "planned_n": users, "metric": CORRECT, **definition}
    )
    made.raise_for_status()
    waiting = asyncio.Queue[int]()
    for user in range(users):
        waiting.put_nowait(user)
    killing: list[asyncio.Task[None]] = []

    async def some() -> None:
        while not waiting.empty():
            user = waiting.get_nowait()
            if user in kill_at:
                killing.append(asyncio.create_task(again(world.service, redis if user == kill_at[0] else None)))
            for question in random.Random(f"{definition['id']} {user}").choices(world.questions, k=1 + user % 2):
                await use(world, definition["id"], user, question)

    await asyncio.gather(*(some() for _ in range(CONCURRENCY)))
    for task in killing:
        await task


async def again(service: ServiceProcess, redis: RedisServer | None) -> None:
    """Kill the service, and Redis too where one is given, and start them again."""
    service.kill()
    if redis is not None:
        redis.kill()
    await asyncio.to_thread(service.start)
    if redis is not None:
        redis.start()


async def truth(world: World, asked: Sequence[Example]) -> dict[str, float]:
    """Shares of right answers over the questions as they were asked, each answered both ways."""
    raw, taught = [], []
    for question in asked:
        silence = Instruction(text="", source="silence")
        raw.append(await right(world, question, compose(question.public(), silence)))
        reply = (await persistent(world.client, "POST", "/instruct", json={"query": question.query})).json()
        taught.append(await right(world, question, [Message(**message) for message in reply["messages"]]))
    return {"raw": sum(raw) / len(raw), "teacher": sum(taught) / len(taught)}


async def check_history(world: World, redis: RedisServer, path: Path, folder: Path) -> dict[str, int]:
    """Compare what was acknowledged with the file of the (killed) server and with a new replica's."""
    counts = {"acknowledged": 0, "lost": 0, "doubled": 0, "replica_differs": 0}
    replica = EventLog(folder / "replica.db", redis_url=redis.url, redis_timeout_s=10)
    old = EventLog(path)
    while await replica.exchange():
        pass
    for name in world.exposures:
        topic = data_topic("", name)
        counts["replica_differs"] += await old.read_all(topic) != await replica.read_all(topic)
        for what, count in (await compare(old, topic, world.exposures[name], world.outcomes[name])).items():
            counts[what] += count
    await replica.aclose()
    await old.aclose()
    return counts


async def report_of(world: World, name: str) -> dict[str, Any]:
    response = await persistent(world.client, "GET", f"/experiments/{name}/report")
    again = await persistent(world.client, "GET", f"/experiments/{name}/report")
    assert response.content == again.content
    found: dict[str, Any] = response.raise_for_status().json()
    return found


async def measure(users: int, kills: int) -> dict[str, Any]:
    """Run everything; the results file's one run."""
    from tests.redis_server import RedisServer

    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wst-online-") as name:
        folder = Path(name)
        redis = RedisServer(folder, "--appendonly", "yes", "--appendfsync", "always")
        settings = {"WST_EVENT_LOG": f"{name}/events.db", "WST_STORE": redis.url, "WST_GUARDRAIL_PERIOD_S": "0.5"}
        service = ServiceProcess(free_port(), settings)
        service.start()
        try:
            async with httpx2.AsyncClient(base_url=service.url, timeout=30) as client:
                questions = lab_arithmetic.load("test", limit=1000, dial=DIAL)
                world = World(client, service, questions, EmbeddedStudent(model_dir("arithmetic", "student")), Grader(), random.Random(0))
                return await experiments(world, redis, folder, users, kills) | {"wall_s": round(time.monotonic() - started, 1)}
        finally:
            service.kill()
            redis.kill()


async def experiments(world: World, redis: RedisServer, folder: Path, users: int, kills: int) -> dict[str, Any]:
    served = (await persistent(world.client, "GET", "/readyz")).json()["teacher"]["sha256"]
    teacher = {"name": "teacher", "teacher": served, "weight": 0.5}
    wrong = {"metric": "wrong", "margin": 0.05}
    kill_at = [users * (i + 1) // (kills + 1) for i in range(kills)]
    await run_experiment(world, {"id": "advice", "arms": [RAW, teacher], "guardrails": [wrong]}, users, kill_at, redis)
    same = {"name": "also-raw", "raw": True, "weight": 0.5}
    await run_experiment(world, {"id": "same", "arms": [RAW, same], "guardrails": [wrong]}, users)
    harmful = {"name": "harmful", "text": WRONG_FOR_MOST, "weight": 0.5}
    await run_experiment(world, {"id": "harmful", "arms": [RAW, harmful], "guardrails": [wrong]}, users)
    latency = {"metric": "latency_ms", "margin": 0.1}
    await run_experiment(world, {"id": "slow", "arms": [RAW, teacher], "metrics": ["wrong"], "guardrails": [latency]}, users)
    asked = [question for user in range(users) for question in random.Random(f"advice {user}").choices(world.questions, k=1 + user % 2)]
    known = await truth(world, asked)
    found = {name: await report_of(world, name) for name in ("advice", "same", "harmful", "slow")}
    states = {name: (await persistent(world.client, "GET", f"/experiments/{name}")).json() for name in found}
    world.service.kill()
    history = await check_history(world, redis, folder / "events.db", folder)
    advice = found["advice"]["metrics"]["correct"]["vs_control"]["teacher"]
    return {
        "users": users,
        "server_kills": kills,
        "redis_kills": min(1, kills),
        "history": {**history, "repeated_reports": world.duplicates, "refused_conflicts": world.conflicts},
        "advice": {
            "truth": {**known, "difference": known["teacher"] - known["raw"]},
            **{name: advice[name] for name in ("difference", "low", "high", "verdict")},
            "srm": found["advice"]["srm"],
            "sentence": found["advice"]["verdict"],
        },
        "same": {
            **{
                name: found["same"]["metrics"]["correct"]["vs_control"]["also-raw"][name]
                for name in ("difference", "low", "high", "verdict")
            },
            "status": states["same"]["status"],
            "srm": found["same"]["srm"],
            "sentence": found["same"]["verdict"],
        },
        **{
            name: {
                "status": states[name]["status"],
                "reason": states[name]["stop_reason"],
                "stopped_arms": states[name]["stopped_arms"],
                "units_when_stopped": sum(found[name]["srm"]["units"].values()),
                "sentence": found[name]["verdict"],
            }
            for name in ("harmful", "slow")
        },
    }


def headline(run: dict[str, Any]) -> dict[str, Any]:
    advice = run["advice"]
    return {
        "finds_the_true_difference": advice["verdict"] == "better" and advice["low"] <= advice["truth"]["difference"] <= advice["high"],
        "same_finds_nothing": run["same"]["verdict"] == "undecided" and run["same"]["status"] == "running",
        "harmful_arm_stopped": run["harmful"]["reason"] == "guardrail",
        "slow_arm_stopped": run["slow"]["reason"] == "guardrail",
        **{name: run["history"][name] for name in ("acknowledged", "lost", "doubled", "replica_differs")},
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online_ab", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--users", type=int, default=1000, help="users of each experiment (default 1000)")
    parser.add_argument("--kills", type=int, default=3, help="how often the server is killed during the first (default 3)")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    commit = git_commit()
    run = asyncio.run(measure(args.users, args.kills))
    if not args.no_save:
        save(NAME, headline=headline(run), runs=[run], commit=commit)
    print(json.dumps({"headline": headline(run), **run}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
