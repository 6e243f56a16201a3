"""What every sister command shares: settings, run directory, phases that are done once, clients with one account, the command line.

A run is a chain of phases. Each leaves a file `phases/NAME.json`, written when everything else of the phase is on disk; a resumed run takes
the results of those that stand and does the others. The directory is that of `teacher.train` (`teacher.run_directory`): config.yaml, lock,
budget.sqlite3, summary.json written last.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import Field, field_validator, model_validator

from exchange.command import RunError
from exchange.records import Example
from exchange.settings import SettingError, Settings, parse_known, switched
from lab.weights_folder import resolve_model
from student_clients import BudgetConfig, CountingStudent, StudentConfig, VLLMConfig, VLLMLaunch, make_student
from student_clients.budget import BudgetExhausted, price_of
from student_clients.bulk import RayConfig, check_ray, in_bulk
from student_clients.errors import StudentError
from tasks import TASKS, TaskConfig
from teacher.config import LoraConfig, RunConfig
from teacher.parts import cannot_start
from teacher.policy import load_tokenizer
from teacher.run_directory import RunDirectory, asked_for, command_parser, unsaved_weights, write_json
from teacher.train import StopSignal
from weak_to_strong.cost import Cost

SETTING = {"raw": "strong", "judge": "key.judge"}
"""Where a role that is called otherwise stands in the settings."""


class MeasureConfig(Settings):
    """How the student is measured."""

    n: int = Field(default=500, ge=2)
    """Held-out questions; 500 give about +-4 points at 60 %."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Error level of every interval."""
    margin: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Differences smaller than this count as none in the test of equivalence (TOST)."""


class StrongConfig(Settings):
    """The strong student: an open model whose weights are trained."""

    model: str = "lab:reasoning/strong"
    """Hugging Face folder, Hub id, or a lab model as lab:WORLD/ROLE."""
    max_tokens: int = Field(default=64, ge=1)
    """Tokens of an answer at most. 64 holds the lab's longest chain twice; worked solutions of real models want 1024 and more."""
    temperature: float = Field(default=0.0, ge=0)
    """How it answers when it is measured; 0 = greedy."""
    batch_size: int = Field(default=64, ge=1)
    """Answers computed at a time, in this process."""
    vllm: VLLMLaunch | None = None
    """`--strong.vllm`: it answers through vLLM, a server of our own for each set of weights (its own, then those that training makes), one
    at a time and none while anything is trained. None = in this process, on the CPU, in float32."""
    lora: LoraConfig | None = None
    """Train a low-rank adapter and merge it; None = all weights."""

    _vllm_alone = field_validator("vllm", mode="before")(switched)

    def client(self, model: str | Path | None = None) -> StudentConfig:
        """How its weights, or others of the same architecture, answer."""
        weights = str(model or self.model)
        shared = {"max_tokens": self.max_tokens, "temperature": self.temperature, "seed": 0 if self.temperature else None}
        if self.vllm is None:
            return StudentConfig(kind="embedded", model=weights, batch_size=self.batch_size, **shared)
        served = VLLMConfig(launch=True, model_path=str(resolve_model(weights)), **self.vllm.model_dump())
        return StudentConfig(kind="vllm", model="strong", vllm=served, timeout_s=600.0, **shared)


class SisterConfig(Settings):
    """What every sister method is told; a method's own config derives from this and names itself by `algorithm`."""

    run: RunConfig = RunConfig()
    """Where the run lies."""
    task: TaskConfig = TaskConfig(name="lab_reasoning")
    """What is asked."""
    strong: StrongConfig = StrongConfig()
    """Who learns."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Seed of every random draw of the run."""
    eval: MeasureConfig = MeasureConfig()
    """How the student is measured."""
    budget: BudgetConfig = BudgetConfig()
    """What the run may spend on models that cost money."""
    ray: RayConfig | None = None
    """`--ray`, or any setting of it: chains (W2SR) and the arms of the measurement are answered on Ray workers; None = in this process."""

    _ray_alone = field_validator("ray", mode="before")(switched)

    @model_validator(mode="before")
    @classmethod
    def _a_section_keeps_our_defaults(cls, data: Any) -> Any:
        """`--task.train_size=100` changes the size alone: what a section leaves out is this class's default and not the section's own."""
        if not isinstance(data, dict):
            return data
        kept = dict(data)
        for name, field in cls.model_fields.items():
            given = data.get(name)
            if isinstance(given, dict) and isinstance(field.default, Settings) and not {"replay", "base_url", "kind"} & set(given):
                kept[name] = {**field.default.model_dump(exclude_unset=True), **given}
        return kept

    @property
    @abstractmethod
    def algorithm(self) -> str:
        """The method's name, part of the run directory's name and of summary.json."""

    def students(self) -> tuple[StudentConfig, ...]:
        """Every model that the run asks, as far as the settings name it."""
        return (self.strong.client(),)

    @classmethod
    def may_change(cls, run: Path | None) -> tuple[str, ...]:
        """Settings of which a resumed run may have others, because they change nothing of what stands in its directory."""
        return ("budget", "ray", "strong.batch_size", "strong.vllm")


Config = TypeVar("Config", bound=SisterConfig)


class Run(Generic[Config]):
    """One process's work on one run."""

    def __init__(self, config: Config, directory: RunDirectory, stack: ExitStack) -> None:
        self.config = config
        self.directory = directory
        self.path = directory.path
        self._clients: dict[str, CountingStudent] = {}
        self._counted: dict[str, Counter[str]] = {}
        stack.callback(self.release)
        self._started = time.monotonic()
        (self.path / "phases").mkdir(exist_ok=True)
        self._wall_before_s = self.cost(*(path.stem for path in (self.path / "phases").glob("*.json"))).wall_s

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def questions(self, split: str, limit: int | None) -> list[Example]:
        """The first questions of a split. Raises SettingError."""
        return TASKS[self.config.task.name].load(self.config.task, split, limit)

    def client(self, role: str, settings: StudentConfig) -> CountingStudent:
        """The client for a role, booked in the run's account: the one that is open, else a new one. Raises SettingError or RunError where
        it cannot answer."""
        if role not in self._clients:
            if settings.vllm.launch:
                log = self.path / f"vllm-{role}.log"
                settings = settings.model_copy(update={"vllm": settings.vllm.model_copy(update={"log": log})})
            config, account = self.config, self.directory.account
            student = in_bulk(make_student(settings, config.budget, account), config.ray, settings, config.budget, account)
            self._clients[role] = student
            try:
                asyncio.run(student.check())
            except StudentError as error:
                raise cannot_start(error, SETTING.get(role, role)) from None
        return self._clients[role]

    def release(self, *roles: str) -> None:
        """Close the clients of these roles, of all where none is named: a model that is asked no more frees its memory for the next one and
        for training."""
        with ExitStack() as closing:  # one that cannot be closed leaves none of the others open
            for role in roles or tuple(self._clients):
                if role in self._clients:
                    student = self._clients.pop(role)
                    self._counted.setdefault(role, Counter()).update(student.stats.as_dict())
                    closing.callback(asyncio.run, student.aclose())

    def done(self, name: str) -> bool:
        """Whether a phase stands on disk."""
        return (self.path / "phases" / f"{name}.json").exists()

    def once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a phase: as it stands on disk, else of `make`, with `wall_s` and `cpu_s` added to its block `cost`."""
        path = self.path / "phases" / f"{name}.json"
        if path.exists():
            return dict(json.loads(path.read_text(encoding="utf-8")))
        self.say(f"phase {name}")
        wall, cpu = time.monotonic(), time.process_time()
        result = make()
        took = Cost(wall_s=round(time.monotonic() - wall, 2), cpu_s=round(time.process_time() - cpu, 2))
        result["cost"] = (Cost(**result.get("cost", {})) + took).model_dump()
        write_json(path, result)
        return result

    def cost(self, *names: str) -> Cost:
        """What these phases took together; a phase that the run does not have counts nothing."""
        found = Cost()
        for name in names:
            path = self.path / "phases" / f"{name}.json"
            if path.exists():
                found += Cost(**json.loads(path.read_text(encoding="utf-8"))["cost"])
        return found

    def finish(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Write summary.json, the last file of a run; `facts` are the method's own, `eval` among them."""
        phases = {path.stem: json.loads(path.read_text(encoding="utf-8"))["cost"] for path in sorted((self.path / "phases").glob("*.json"))}
        config = self.config
        self.release()
        summary = {
            "task": config.task.name,
            "algorithm": config.algorithm,
            "seed": config.seed,
            "run_dir": str(self.path),
            "wall_s": round(self._wall_before_s + time.monotonic() - self._started, 1),
            "clients": {role: dict(counts) for role, counts in self._counted.items()},
            "phases": phases,
            **facts,
        }
        write_json(self.path / "summary.json", summary)
        return summary


def carry_out(config: Config, run: RunDirectory | None, work: Callable[[Run[Config]], dict[str, Any]], stop: StopSignal) -> dict[str, Any]:
    """Do what is left of a run, or all of a new one; its summary. Raises SettingError, RunError, KeyboardInterrupt."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL reports every trainer it builds
    # transformers reads and writes its own deprecated attribute whenever a Trainer saves.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    if run is None:
        load_tokenizer(config.strong.model, called="strong model")  # one that is not there makes no run
        run = RunDirectory.create(config)
    with ExitStack() as stack:
        stack.enter_context(run.lock())
        run.write_config(config)  # a resumed run may have been given another budget
        print(f"run {run.path}", file=sys.stderr)
        try:
            return work(Run(config, run, stack))
        except BudgetExhausted as error:
            raise RunError(f"{error}: --resume={run.path} --budget.usd=MORE") from None
        except Exception as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else unsaved_weights(error)
            if reason is None:
                raise
            raise RunError(f"{run.path}: {reason}; mend that and go on with --resume={run.path}") from None


def sister_body(
    program: str,
    about: str,
    config_class: type[Config],
    argv: Sequence[str] | None,
    *,
    check: Callable[[Config], Config],
    plan: Callable[[Config], dict[str, Any]],
    work: Callable[[Run[Config]], dict[str, Any]],
) -> int:
    """The body of a sister command. `check` looks at everything that can be wrong with the settings before anything is started and gives
    them resolved, `plan` says for --dry-run what the run would ask, `work` does it and ends with `Run.finish`."""
    args, rest = parse_known(command_parser(program, about, config_class), argv)
    config, run = asked_for(args, rest, config_class, check, config_class.may_change)
    check_ray(config.ray, *config.students())
    if args.dry_run:
        import yaml

        print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False) + json.dumps(plan(config), indent=1))
        return 0
    if run is not None and run.finished:
        raise SettingError(f"{run.path}: this run is finished")
    for student in config.students():
        price_of(student, config.budget)
    with StopSignal() as stop:
        try:
            carry_out(config, run, work, stop)
        except KeyboardInterrupt:
            print(f"{program}: stopped; go on with --resume", file=sys.stderr)
    return 128 + stop.number if stop.number else 0
