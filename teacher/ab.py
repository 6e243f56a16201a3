"""`python -m teacher.ab PROMPTS.jsonl [--teacher DIR] [--a.b=value ...]`: does a teacher help on these prompts? No server needed.

Every prompt is answered raw and under the teacher's instruction by the same student, and both answers are graded; the two are compared
question by question. One line of the file, with the default names of its fields (`--task.own.query=...` and so on name others):

    {"question": "How many ...?", "answer": "42", "system"?: "..."}

`--task.own.answer_type` says how answers are graded (number, math, choice, yes_no, roles, text). Student, reward and budget are those of
the teacher's run unless they are set; `eval.arms` and `eval.include` add arms. The report goes into a directory of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from exchange.command import run_command
from exchange.settings import SettingError, load, parse_flags, parse_known
from teacher.config import TrainConfig, resolve
from teacher.locate import find_teacher
from teacher.run_directory import RunDirectory

INHERITED = ("variant", "student", "teacher", "reward", "budget", "seed")
"""What the teacher's run says of the world it was trained in."""

LEFT_OUT = ("static", "untrained", "sft", "blind")
"""Controls of a training run; an A/B asks about the teacher and what `eval` names."""


def config_for(prompts: str, teacher: Path, flags: list[tuple[str, Any]]) -> TrainConfig:
    """The settings: the run's where the teacher has one, the file as task `own`, the flags on top. Raises SettingError."""
    run = RunDirectory(teacher.parent)
    held = run.config() if (run.path / "config.yaml").is_file() else {}
    validation = held.get("validation", {})
    if validation.get("student") is not None:
        held |= validation  # what was measured then is measured now
    held = {key: value for key, value in held.items() if key in INHERITED}
    if not Path(prompts).is_file():
        raise SettingError(f"{prompts}: no such file; give one of JSON lines with a question and its right answer")
    for name, _ in flags:
        if name in ("task.name", "task.path", "task"):
            raise SettingError(f"{name}: the file of prompts is the task; set task.own.* to say how its rows are read")
    return resolve(load(TrainConfig, {**held, "task": {"name": "own", "path": prompts}}, flags))


def body(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m teacher.ab", description=(__doc__ or "").split("\n")[0], epilog=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("prompts", help="a file of JSON lines")
    parser.add_argument("--teacher", metavar="DIR", help="a run directory or teacher folder; none = the one the server would take")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and the student calls, then stop")
    args, rest = parse_known(parser, argv)
    from rewards.rubric import check_reward
    from tasks import own_data
    from teacher.arms import calls, check_arms, planned
    from teacher.evaluate import carry_out

    teacher = find_teacher(args.teacher)
    config = config_for(args.prompts, teacher, parse_flags(rest))
    examples = own_data.load(config.task.own, "test", path=args.prompts, whole=True)
    config = config.model_copy(update={"eval": config.eval.model_copy(update={"n": len(examples)})})
    check_reward(config.reward, examples)
    check_arms(config)
    names = [name for name in planned(config, teacher) if name not in LEFT_OUT]
    if searched := [name for name in names if name in ("best_static", "router")]:
        raise SettingError(f"eval.include: {searched[0]} is searched on training questions, and these prompts are all tested on")
    if args.dry_run:
        from teacher.estimate import estimate

        cost = estimate(config, {"evaluation": calls(config, teacher, names)}, trains=False, examples=examples)
        print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False) + json.dumps(cost, indent=1))
        return 0
    if config.eval.transfer:
        raise SettingError("eval.transfer: an A/B has one student and one file; `python -m teacher.evaluate` tries a teacher on several")
    carry_out(config, teacher, None, title=f"{Path(args.prompts).name}: {{n}} prompts", examples=examples, names=names)
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_command("teacher.ab", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
