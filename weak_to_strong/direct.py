"""`python -m weak_to_strong.direct [CONFIG.yaml] [--a.b=value ...]`: direct RL, the small model itself trained to give the answers.

The control of a prompt teacher: what the teacher's own base model reaches when GRPO pays for its right answers and no student is there. The
training is that of W2SR's ceiling (`weak_to_strong.ceiling`); the model is `strong.model`, by default the lab teacher's untrained weights.
`teacher.evaluate` takes the result as an arm that answers by itself:

    python -m teacher.evaluate RUN --eval.arms.direct="{student: {kind: embedded, model: DIRECT_RUN/ceiling/student}}"
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from exchange.command import run_command
from exchange.settings import SettingError
from tasks import TASKS, TaskConfig, has_gold
from weak_to_strong.ceiling import CeilingConfig, check_ceiling
from weak_to_strong.run import SisterConfig, StrongConfig, sister_body


class DirectConfig(SisterConfig):
    """A direct run; every setting is also a flag `--a.b=value`."""

    task: TaskConfig = TaskConfig(name="lab_arithmetic")
    """What is asked; golds pay."""
    strong: StrongConfig = StrongConfig(model="lab:arithmetic/teacher", max_tokens=48)
    """Who learns to answer: the teacher's base model. 48 tokens hold the answers of the lab's arithmetic student."""
    ceiling: CeilingConfig = CeilingConfig()
    """How it learns."""

    @property
    def algorithm(self) -> str:
        return "direct"


def resolve(config: DirectConfig) -> DirectConfig:
    """The config, looked at. Raises SettingError for whatever the run would stumble over; nothing is asked or written."""
    from lab.weights_folder import resolve_model

    resolve_model(config.strong.model)
    if not has_gold(config.task):
        raise SettingError(f"task.name={config.task.name!r}: direct RL is paid by a right answer, and this task has none")
    if config.ceiling.run is not None:
        raise SettingError(f"ceiling.run={config.ceiling.run!r}: a direct run trains its own")
    size = len(TASKS[config.task.name].load(config.task, "train", config.task.train_size))
    TASKS[config.task.name].load(config.task, "test", config.eval.n)
    check_ceiling(config, config.ceiling, size)
    return config


def plan(config: DirectConfig) -> dict[str, Any]:
    """What the run would sample, for --dry-run."""
    from teacher.algorithms import trl_config
    from weak_to_strong.ceiling import train_config

    resolved = train_config(config, config.ceiling)
    args = trl_config(resolved, Path("/dev/null"))
    samples = (resolved.max_steps or 0) * args.per_device_train_batch_size * args.gradient_accumulation_steps
    return {"samples_at_most": samples, "answers_measured": 2 * config.eval.n}


def work(run: Any) -> dict[str, Any]:
    """Train, measure, sum up."""
    from weak_to_strong.ceiling import Reinforced
    from weak_to_strong.measuring import Asked, measured

    config = run.config
    train, validation = run.questions("train", config.task.train_size), run.questions("validation", config.task.validation_size)
    found = run.once("ceiling", lambda: Reinforced(run, config.ceiling, train, validation)())
    if not found["plateau"]:
        run.say(f"learning ended at its last step ({found['steps']}), no plateau; raise ceiling.max_steps")
    folder, arms = run.path / "ceiling" / "student", {}
    for name, model, about in (("raw", None, "the model before training"), ("trained", folder, "the same after GRPO on right answers")):
        settings = config.strong.client(model)
        arms[name] = Asked(name, settings, about=about)
    examples = run.questions("test", config.eval.n)
    title, curve = f"direct RL on {config.task.name}", [(int(step), float(right)) for step, right in found["curve"]]
    _, summary = measured(run, arms, examples, title=title, teacher="none", curve=curve)
    kept = {key: value for key, value in found.items() if key != "cost"}
    result: dict[str, Any] = run.finish(
        {"student_folder": str(folder), "ceiling": kept, "cost": {"training": found["cost"]}, "eval": summary.model_dump(mode="json")}
    )
    print(f"student: {folder}   report: {run.path / 'report.html'}")
    print(f"as an arm: --eval.arms.direct='{{student: {{kind: embedded, model: {folder}}}}}'")
    return result


def main(argv: list[str] | None = None) -> int:
    name, about = "weak_to_strong.direct", (__doc__ or "").split("\n")[0]
    return run_command(name, lambda: sister_body(name, about, DirectConfig, argv, check=resolve, plan=plan, work=work))


if __name__ == "__main__":
    sys.exit(main())
