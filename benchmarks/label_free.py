"""`python -m benchmarks.label_free [--only NAME ...]`: rewards without golds, each measured by gold on the lab world.

The same short run (300 warm-start questions, 40 steps) paid by gold, by agreement with the majority of raw samples, by agreement under the
instruction, and by two judges. The lab has no model that could judge, so the judges are simulated behind the OpenAI protocol, with faults
that we set: each *believes* an answer, the gold or (for a share of questions, by hash) the student's own habitual sum, prefers whichever
answer states what it believes, and where both or neither do, the longer one. Writes `benchmarks/results/label_free.json` and the table
between the markers of `docs/results.md`. Resumable: a run that stands in the results file is not repeated.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.results_file import load_runs, save, train, write_docs
from tasks.gsm8k_answer import extract
from tasks.lab_arithmetic import load
from tasks.source import stable_share
from teacher.run_directory import git_commit

NAME = "label_free"
COMMON = [
    "--teacher.warm_start.questions=300",
    "--max_steps=40",
    "--task.train_size=1000",
    "--task.validation_size=200",
    "--student.seed=0",
]
VOTES = "--reward.consistency.samples=4"
CELLS: dict[str, tuple[str, list[str], float | None]] = {
    "gold": ("gold (control)", [], None),
    "consistency_raw": ("majority of 4 raw samples", ["--reward.kind=consistency", VOTES], None),
    "consistency_instruction": (
        "agreement of 4 samples under the instruction",
        ["--reward.kind=consistency", "--reward.consistency.on=instruction", VOTES],
        None,
    ),
    "judge_knows": ("judge that knows every answer", ["--reward.kind=judge"], 0.0),
    "judge_errs": ("judge that believes the habitual sum in 4 of 10", ["--reward.kind=judge"], 0.4),
}
"""Name -> (title, flags, share of questions on which a simulated judge is wrong)."""
_BLOCK = re.compile(r"<(conversation|answer_a|answer_b)>\n(.*?)\n</\1>", re.DOTALL)
_NUMBER = re.compile(r"\d+")


def beliefs(wrong_share: float) -> dict[str, str]:
    """What the judge takes for right, by question: the gold, or the sum of the two numbers where it errs."""
    found = {}
    for split, limit in (("train", 1000), ("validation", 200), ("test", 500)):
        for example in load(split, limit=limit):
            errs = stable_share("judge" + example.query, 100) < 100 * wrong_share
            found[example.query] = str(sum(map(int, _NUMBER.findall(example.query)))) if errs else str(example.gold)
    return found


def verdict(prompt: str, believed: dict[str, str]) -> str:
    """The simulated judge's answer to the shipped judge template."""
    blocks = dict(_BLOCK.findall(prompt))
    belief = believed[blocks["conversation"].removeprefix("user: ")]
    a, b = (extract(blocks[name], strict=False) == belief for name in ("answer_a", "answer_b"))
    if a != b:
        return "[[A]]" if a else "[[B]]"
    longer = len(blocks["answer_a"]) - len(blocks["answer_b"])
    return "[[A]]" if longer > 0 else "[[B]]" if longer < 0 else "[[C]]"


@contextmanager
def judge_server(wrong_share: float) -> Iterator[str]:
    """The simulated judge at 127.0.0.1; yields its base URL."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    believed = beliefs(wrong_share)

    async def completions(request: Request) -> JSONResponse:
        body = await request.json()
        said = verdict(body["messages"][-1]["content"], believed)
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": 4, "total_tokens": 104}
        return JSONResponse({"id": "j", "object": "chat.completion", "created": 0, "model": "judge", "choices": [choice], "usage": usage})

    async def models(request: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": "judge", "object": "model"}]})

    app = Starlette(routes=[Route("/v1/chat/completions", completions, methods=["POST"]), Route("/v1/models", models)])
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [held]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join()


def run_cell(name: str, commit: str | None) -> dict[str, Any]:
    """Train and evaluate one cell in a process of its own."""
    title, flags, wrong_share = CELLS[name]
    if wrong_share is None:
        summary, cpu_s = train([*COMMON, *flags])
    else:
        with judge_server(wrong_share) as url:
            client = f"--reward.judge.client={{kind: openai, base_url: '{url}', model: judge, pacing: {{concurrency: 32}}}}"
            summary, cpu_s = train([*COMMON, *flags, client])
    trained, beside = summary["eval"]["arms"]["trained"], summary["eval"]["beside"]
    gold = beside["watched"]["correct"] if name != "gold" else summary["eval"]
    pair = gold["vs_raw"]["trained"]
    controlled = beside["length_controlled"].get("trained")
    return {
        "name": name,
        "title": title,
        "paid_by_reward": trained["mean"],
        "length_controlled": controlled["mean"] if controlled else None,
        "raw_by_gold": gold["arms"]["raw"]["mean"],
        "trained_by_gold": gold["arms"]["trained"]["mean"],
        "difference_by_gold": [pair["difference"], pair["low"], pair["high"]],
        "silence": trained["silence_rate"],
        "calls": summary["student"]["calls"],
        "judge_calls": summary.get("judges", {}).get("judge", {}).get("calls", 0),
        "cpu_s": cpu_s,
        "commit": commit,
    }


def table(runs: list[dict[str, Any]]) -> str:
    lines = [
        "| paid by | what the reward says | raw, by gold | trained, by gold | trained − raw (95 %) | silent | calls | judge calls |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in sorted(runs, key=lambda run: list(CELLS).index(run["name"])):
        difference, low, high = run["difference_by_gold"]
        controlled = f" (length-controlled {run['length_controlled']:.1%})" if run["length_controlled"] is not None else ""
        lines.append(
            f"| {run['title']} | {run['paid_by_reward']:.1%}{controlled} | {run['raw_by_gold']:.1%} | {run['trained_by_gold']:.1%} | "
            f"{difference:+.1%} ({low:+.1%} .. {high:+.1%}) | {run['silence']:.0%} | {run['calls']:,} | {run['judge_calls']:,} |"
        )
    return "\n".join(lines)


def headline(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {f"{run['name']}_gain_by_gold": round(run["difference_by_gold"][0], 4) for run in runs}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label_free", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=CELLS, default=list(CELLS), help="only these runs")
    args = parser.parse_args()
    runs = load_runs(NAME)
    commit = git_commit()  # before the first result changes the tree
    for name in args.only:
        if any(run["name"] == name for run in runs):
            continue
        runs.append(run_cell(name, commit))
        save(NAME, headline=headline(runs), runs=runs, commit=commit)
        write_docs(NAME, table(runs))
        print(json.dumps(runs[-1]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
