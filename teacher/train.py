"""`python -m teacher.train [CONFIG.yaml] [--a.b=value ...]`: train a teacher, measure it, leave it ready to serve.

No config means the lab world: everything embedded, no network, minutes on two cores. The phases are warm start (best-of-N, then
fine-tuning), GRPO with validation, export of the best teacher, evaluation of all arms. A killed run goes on with --resume.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from exchange.command import run_command
from exchange.settings import SettingError, find_config, load, parse_flags, parse_known, read_yaml
from student_clients.bulk import check_ray
from teacher.config import TrainConfig, resolve
from teacher.processes import Processes


class StopSignal:
    """Ctrl-C and SIGTERM during training ask for a checkpoint and a stop; at any other time, or twice, they stop at once."""

    def __init__(self) -> None:
        self.number = 0
        self.graceful = False

    def __enter__(self) -> StopSignal:
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: object) -> None:
        second, self.number = bool(self.number), number
        if second or not self.graceful:
            raise KeyboardInterrupt
        print("stopping after this step, with a checkpoint (once more to stop at once)", file=sys.stderr)


def read_config(argument: str | None, rest: list[str]) -> TrainConfig:
    """The resolved config of the command line."""
    data = read_yaml(find_config(argument)) if argument is not None else {}
    return resolve(load(TrainConfig, data, parse_flags(rest)))


def dry_run(config: TrainConfig, processes: int = 1) -> dict[str, Any]:
    """What the run would ask and cost in so many processes, before anything is sent."""
    from teacher.algorithms import training_questions, trl_config
    from teacher.arms import calls as evaluation_calls
    from teacher.estimate import estimate

    args = trl_config(config, Path(os.devnull))
    batch = processes * args.per_device_train_batch_size * args.gradient_accumulation_steps
    warm = config.teacher.warm_start
    validations = -(-(config.max_steps or 0) // config.eval.every) + 1  # step 0, then every so often, then the last
    validations += 0 if config.teacher.silence_bias is not None else 3  # instruction and silence where one may be the better, and once more
    asked = {
        "warm_start": warm.questions * (1 + warm.samples) if warm else 0,
        "training": (config.max_steps or 0) * batch // args.num_iterations,
        "raw": (config.max_steps or 0) * batch // args.num_iterations // args.num_generations + config.task.validation_size
        if config.reward.harm_penalty
        else 0,
        "validation": validations * config.task.validation_size,
    }
    if config.variant == "three_step":
        drafts = min(config.task.train_size, processes * training_questions(config))
        asked["drafts"] = drafts + config.task.validation_size  # evaluation's are its raw arm
    calls = {phase: count * config.student.samples for phase, count in asked.items()}
    measured = config.measured()
    evaluation = {"evaluation": evaluation_calls(measured, training=calls["warm_start"] + calls["training"])}
    if measured is config:
        return estimate(config, {**calls, **evaluation}, trains=True)
    raw = config.task.validation_size if config.reward.harm_penalty else 0
    validation = (calls.pop("validation") // config.student.samples + raw) * measured.student.samples
    calls["raw"] -= raw * config.student.samples
    seen = estimate(measured, {"validation": validation, **evaluation}, trains=False)
    return {**estimate(config, calls, trains=True), "validation_student": seen}


def follow_main(processes: Processes) -> int:
    """The life of a process other than the main one. It ends with the main process, whose signals and errors are everybody's."""
    from teacher.learning import follow

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback beside the main process's own words
    try:
        follow(processes)
    except RuntimeError as error:
        if not any(text in str(error) for text in ("closed by peer", "reset by peer", "Broken pipe")):
            raise
        return 1  # the main process has said why it ended
    return 0


def body(argv: list[str] | None) -> int:
    from teacher.run_directory import asked_for, command_parser

    args, rest = parse_known(command_parser("teacher.train", (__doc__ or "").split("\n")[0], TrainConfig), argv)
    processes = Processes()
    if not processes.main:  # under torchrun; the main process answers for the command line
        return 0 if args.dry_run else follow_main(processes)

    config, run = asked_for(args, rest, TrainConfig, resolve)
    check_ray(config.ray, config.measured().student)
    if args.dry_run:
        import yaml

        with processes.alone():  # TRL's arguments would wait for the other processes, which have ended
            plan = dry_run(config, processes.count)
        print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False) + json.dumps(plan, indent=1))
        return 0
    if run is not None and run.finished:
        raise SettingError(f"{run.path}: this run is finished; measure it with `python -m teacher.evaluate {run.path}`")

    from teacher.training import train

    with StopSignal() as stop:
        try:
            train(config, run, stop, processes)
        except KeyboardInterrupt:
            print("teacher.train: stopped; go on with --resume", file=sys.stderr)
    return 128 + stop.number if stop.number else 0


def main(argv: list[str] | None = None) -> int:
    return run_command("teacher.train", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
