"""`python -m benchmarks.engine [--teacher DIR] [--vllm URL --model NAME] [--half-billion]`: the teacher's speed and the service's.

- *In process*: thirty-two callers at a time through the micro-batcher, against the same queries in plain batches, by turns.
- *vLLM* (`--vllm`, a server that holds the teacher's weights): the engine's lanes against the same requests straight to the server.
- *Added time to first token*: the student begins when the instruction is written, so it is what a request waits for it: at 16, 32, 64 and
  128 tokens, alone, p50 and p95, and the share that the shipped deadline would pass by. With `--half-billion` a Qwen2 of 0.5B shape and
  random weights, which never ends a text by itself; else the teacher, as long as it likes.

Writes `benchmarks/results/engine.json`. On a machine with other work only the ratios mean anything, and they little.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.results_file import save, say_load
from exchange.protocols import InstructionPolicy
from exchange.records import PublicExample
from server.engine import TeacherEngine
from server.settings import ServerSettings
from tasks.lab_arithmetic import load
from teacher.folder import LoadedTeacher, load_teacher
from teacher.locate import find_teacher
from teacher.policy import TransformersPolicy
from teacher.prompt import TeacherPrompt
from teacher.run_directory import git_commit

if TYPE_CHECKING:
    from teacher.remote import RemotePolicy

NAME = "engine"
CONCURRENCY = 32
ROUNDS = 3
LENGTHS = (16, 32, 64, 128)
SHIPPED = ServerSettings()


def queries(n: int) -> list[PublicExample]:
    return [example.public() for example in itertools.islice(itertools.cycle(load("test", limit=min(n, 500))), n)]


async def plain(policy: InstructionPolicy, asked: Sequence[PublicExample]) -> float:
    """Instructions a second in batches of the callers' number, one after another."""
    began = time.perf_counter()
    for start in range(0, len(asked), CONCURRENCY):
        await policy.instruct(asked[start : start + CONCURRENCY])
    return len(asked) / (time.perf_counter() - began)


async def at_once(ask: Any, asked: Sequence[PublicExample]) -> tuple[float, int]:
    """(instructions a second, failures) with so many callers, each with its next query as soon as it has its answer."""
    waiting, failed = iter(asked), 0

    async def caller() -> None:
        nonlocal failed
        for example in waiting:
            failed += not await ask(example)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))
    return len(asked) / (time.perf_counter() - began), failed


def engine_of(policy: InstructionPolicy, *, remote: bool = False, deadline_s: float = 600.0) -> TeacherEngine:
    """As `server.app` makes it, but with a deadline that nothing meets: what is late is counted here."""
    return TeacherEngine(
        policy,
        batch_size=1 if remote else SHIPPED.teacher_batch,
        window_s=0.0 if remote else SHIPPED.batch_window_ms / 1000,
        deadline_s=deadline_s,
        max_queued=SHIPPED.max_queued,
        lanes=SHIPPED.remote_concurrency if remote else SHIPPED.teacher_lanes,
        late_join_s=0.0 if remote else SHIPPED.late_join_ms / 1000,
    )


async def in_process(teacher: LoadedTeacher, n: int) -> list[dict[str, Any]]:
    """The engine and plain batches by turns."""
    asked, engine, rows = queries(n), engine_of(teacher.policy), []

    async def ask(example: PublicExample) -> bool:
        return (await engine.ask(example)).instruction is not None

    await plain(teacher.policy, asked[:CONCURRENCY])  # warm
    for _ in range(ROUNDS):
        alone = await plain(teacher.policy, asked)
        through, failed = await at_once(ask, asked)
        rows.append({"engine": "in process", "plain_per_s": round(alone, 2), "engine_per_s": round(through, 2), "failed": failed})
        print(json.dumps(rows[-1]), flush=True)
    await engine.aclose()
    return rows


async def behind_vllm(policy: RemotePolicy, n: int) -> list[dict[str, Any]]:
    """The engine's lanes and the same requests without it, by turns."""
    asked, engine, rows = queries(n), engine_of(policy, remote=True), []

    async def through_engine(example: PublicExample) -> bool:
        return (await engine.ask(example)).instruction is not None

    async def straight(example: PublicExample) -> bool:
        return bool(await policy.instruct([example]))

    await at_once(straight, asked[:CONCURRENCY])  # warm
    for _ in range(ROUNDS):
        alone, _ = await at_once(straight, asked)
        through, failed = await at_once(through_engine, asked)
        rows.append({"engine": "vllm", "plain_per_s": round(alone, 2), "engine_per_s": round(through, 2), "failed": failed})
        print(json.dumps(rows[-1]), flush=True)
    await engine.aclose()
    await policy.client.aclose()
    return rows


async def added(teacher: LoadedTeacher, length: int, n: int) -> dict[str, Any]:
    """What a request waits for an instruction of so many tokens, alone."""
    policy = teacher.policy
    assert isinstance(policy, TransformersPolicy)
    policy.max_instruction_tokens = length
    engine, waits, tokens = engine_of(policy), [], []
    for example in queries(n):
        answer = await engine.ask(example)
        assert answer.instruction is not None
        waits.append(1000 * answer.seconds)
        tokens.append(answer.instruction.num_tokens or 0)
    await engine.aclose()
    row = {
        "tokens": length,
        "written": statistics.mean(tokens),
        "added_p50_ms": round(statistics.median(waits), 1),
        "added_p95_ms": round(sorted(waits)[int(0.95 * (len(waits) - 1))], 1),
        "past_the_shipped_deadline": sum(wait > SHIPPED.deadline_ms for wait in waits) / len(waits),
        "n": n,
    }
    print(json.dumps(row), flush=True)
    return row


def half_billion(folder: Path) -> LoadedTeacher:
    """A Qwen2 of 0.5B shape with random weights and the tokenizer and template of `folder`'s teacher."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    small = load_teacher(folder)
    assert isinstance(small.policy, TransformersPolicy)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=small.policy.tokenizer.eos_token_id,
        pad_token_id=small.policy.tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    prompt: TeacherPrompt = small.policy.prompt
    policy = TransformersPolicy(model, small.policy.tokenizer, prompt, max_instruction_tokens=16, threads=SHIPPED.teacher_lanes)
    return LoadedTeacher("half-billion", "0" * 64, small.task, policy, {"max_instruction_tokens": 16})


def ratio(rows: list[dict[str, Any]], engine: str) -> float | None:
    """The median over the rounds of engine / plain; None where it was not measured."""
    mine = [row["engine_per_s"] / row["plain_per_s"] for row in rows if row.get("engine") == engine]
    return round(statistics.median(mine), 3) if mine else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--teacher", help="run directory or teacher folder (default: as the server takes it)")
    parser.add_argument("--queries", type=int, default=512, help="a round (default 512)")
    parser.add_argument("--vllm", metavar="URL", help="a server with the teacher's weights, /v1 included")
    parser.add_argument("--model", default="teacher", help="what that server calls it (default teacher)")
    parser.add_argument("--half-billion", action="store_true", help="measure the added time with a 0.5B shape of random weights")
    parser.add_argument("--samples", type=int, default=20, help="of each length (default 20)")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    say_load()
    commit, load_average, folder = git_commit(), os.getloadavg()[0], find_teacher(args.teacher)
    rows = asyncio.run(in_process(load_teacher(folder, batch_size=CONCURRENCY, threads=SHIPPED.teacher_lanes), args.queries))
    if args.vllm:
        from teacher.remote import RemotePolicy, remote_teacher

        remote = remote_teacher(folder, args.model, base_url=args.vllm, timeout_s=600.0).policy
        assert isinstance(remote, RemotePolicy)
        rows += asyncio.run(behind_vllm(remote, args.queries))
    slow = half_billion(folder) if args.half_billion else load_teacher(folder, threads=SHIPPED.teacher_lanes)
    asyncio.run(slow.policy.instruct(queries(1)))  # warm
    rows += [asyncio.run(added(slow, length, args.samples)) for length in LENGTHS]
    headline = {
        "in_process_ratio": ratio(rows, "in process"),
        "vllm_ratio": ratio(rows, "vllm"),
        "added_ms": {str(row["tokens"]): [row["added_p50_ms"], row["added_p95_ms"]] for row in rows if "tokens" in row},
        "past_the_shipped_deadline": {str(row["tokens"]): row["past_the_shipped_deadline"] for row in rows if "tokens" in row},
        "half_billion": args.half_billion,
        "load_average": round(load_average, 1),
    }
    if not args.no_save:
        save(NAME, headline=headline, runs=rows, commit=commit)
    print(json.dumps({"headline": headline}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
