"""The settings of W2SR, and what is looked at before it starts."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from exchange.settings import SettingError, Settings, switched
from lab.weights_folder import resolve_model
from student_clients import StudentConfig
from tasks import TASKS, has_gold
from weak_to_strong.ceiling import CeilingConfig, check_ceiling
from weak_to_strong.fine_tuning import FineTuneConfig
from weak_to_strong.run import SisterConfig
from weak_to_strong.traces import HygieneConfig, Variant, read_traces


class TracesConfig(Settings):
    """The weak reasoner's chains."""

    file: Path | None = None
    """Chains written before (traces.jsonl of a run, or lines {"example_id", "completion"}); they are graded anew. None = `weak` writes
    them."""
    questions: int = Field(default=1000, ge=1)
    """Training questions that get chains; the first of the split."""
    samples: int = Field(default=1, ge=1)
    """Chains a question. 1 greedy one: what the authors' runs did; with more, set weak.temperature."""
    instruction: str = ""
    """A text that the weak reasoner is given with every question, e.g. in which form to end; the student never sees it."""


class W2SRConfig(SisterConfig):
    """A W2SR run; every setting is also a flag `--a.b=value`."""

    weak: StudentConfig = StudentConfig(model="lab:reasoning/weak", max_tokens=64)
    """Who writes the chains: any student, a recording (weak.replay=FILE) too."""
    weak_flops: float | None = Field(default=None, ge=0)
    """Floating-point operations that the weak reasoner's own training took, for the cost ratio that counts it; None = known of lab models
    alone."""
    traces: TracesConfig = TracesConfig()
    """The chains."""
    hygiene: HygieneConfig = HygieneConfig()
    """Which of them are fit to learn from."""
    variant: Variant = "all"
    """All chains (W2SR), the right ones (W2SR-P) or the wrong ones (W2SR-N)."""
    match_size: bool = False
    """Train on as many chains as the smallest of the three variants has, drawn at random: else variants differ in size too."""
    keep: int | None = Field(default=None, ge=1)
    """Chains a question at most, of those the variant allows, drawn at random; None = all."""
    fine_tune: FineTuneConfig = FineTuneConfig()
    """How the student learns them."""
    ceiling: CeilingConfig | None = None
    """`--ceiling`: also train the student by GRPO, for RGR and the cost ratio."""

    _ceiling_alone = field_validator("ceiling", mode="before")(switched)

    @property
    def algorithm(self) -> str:
        return "w2sr" if self.variant == "all" else f"w2sr-{self.variant[0]}"

    def students(self) -> tuple[StudentConfig, ...]:
        return (*super().students(), self.weak)


def resolve(config: W2SRConfig) -> W2SRConfig:
    """The config with every preset filled in. Raises SettingError for whatever the run would stumble over; nothing is asked or written."""
    resolve_model(config.strong.model)  # a lab model that is not there is found out before anything is asked
    if not has_gold(config.task):
        raise SettingError(f"task.name={config.task.name!r}: W2SR grades chains by a right answer, and this task has none")
    if config.task.own.answer_type is not None and config.task.name == "own" and config.task.own.answer is None:
        raise SettingError("task.own.answer: required, chains are graded by it")
    size = len(TASKS[config.task.name].load(config.task, "train", config.task.train_size))
    TASKS[config.task.name].load(config.task, "test", config.eval.n)
    if config.traces.file is not None:
        read_traces(config.traces.file, "traces.file")
    if config.traces.samples > 1 and config.weak.temperature == 0:
        raise SettingError(f"traces.samples={config.traces.samples}: a greedy reasoner writes one chain; set weak.temperature, e.g. 1.0")
    if config.ceiling is not None:
        check_ceiling(config, config.ceiling, size)
    return config.model_copy(update={"fine_tune": config.fine_tune.resolved(config.strong)})
