"""The settings of two-stage weak-to-strong reasoning, and what is looked at before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from exchange.settings import SettingError
from lab.weights_folder import resolve_model
from student_clients import StudentConfig
from tasks import TASKS, answer_type_of, has_gold
from weak_to_strong.agreement import KeyConfig
from weak_to_strong.fine_tuning import FineTuneConfig
from weak_to_strong.preference_tuning import PreferenceConfig
from weak_to_strong.run import SisterConfig
from weak_to_strong.stage_one import StageOneConfig
from weak_to_strong.stage_two import StageTwoConfig
from weak_to_strong.traces import read_traces

ArmName = Literal["full_weak", "gold", "icl"]


class TwoStageConfig(SisterConfig):
    """A two-stage run; every setting is also a flag `--a.b=value`."""

    weak: StudentConfig = StudentConfig(model="lab:reasoning/weak", max_tokens=64)
    """The weak model: any student, a recording (weak.kind=replay) too."""
    weak_file: Path | None = None
    """Weak answers written before: lines {"example_id", "completion", "finish_reason"?}, as traces.jsonl of a W2SR run. None = `weak` is
    asked."""
    weak_instruction: str = ""
    """A text that the weak model is given with every question; the student never sees it."""
    questions: int = Field(default=1000, ge=10)
    """Training questions, whose golds neither stage is shown; the first of the split."""
    key: KeyConfig = KeyConfig()
    """How two answers are found to agree."""
    stage_one: StageOneConfig = StageOneConfig()
    """Learning from agreement."""
    fine_tune: FineTuneConfig = FineTuneConfig()
    """How Stage I, and the arms beside it, are trained."""
    stage_two: StageTwoConfig = StageTwoConfig()
    """Which pairs are made."""
    preference: PreferenceConfig | None = PreferenceConfig()
    """How Stage II learns them; null = Stage I alone."""
    arms: tuple[ArmName, ...] = ("full_weak", "gold", "icl")
    """Measured beside the stages: full_weak (fine-tuned on all weak answers), gold (on the worked solutions of the same questions), icl
    (the untrained student with the demonstrations before every test question)."""

    @property
    def algorithm(self) -> str:
        return "two_stage"

    @classmethod
    def may_change(cls, run: Path | None) -> tuple[str, ...]:
        """What comes after Stage I too, as long as no pairs were made: Stage I is hours, and whether pairs come of it shows at its end."""
        pairs = ("stage_two.keep", "stage_two.reject_weak", "stage_two.pairs", "preference")
        made = run is None or (run / "phases" / "pairs.json").exists()
        return super().may_change(run) + (() if made else pairs)

    def students(self) -> tuple[StudentConfig, ...]:
        return (*super().students(), self.weak, *([self.key.judge] if self.key.judge is not None else []))


def resolve(config: TwoStageConfig) -> TwoStageConfig:
    """The config with every preset filled in. Raises SettingError for whatever the run would stumble over; nothing is asked or written."""
    resolve_model(config.strong.model)  # a lab model that is not there is found out before anything is asked
    task = TASKS[config.task.name]
    train = task.load(config.task, "train", max(config.task.train_size, config.questions))
    task.load(config.task, "test", config.eval.n)
    if len(train) < 10:
        raise SettingError(f"task {config.task.name}: {len(train)} training questions are too few to show some and ask others")
    if config.key.kind == "task" and answer_type_of(train[0].task) is None:
        raise SettingError(
            f"task.name={config.task.name!r}: its answers cannot be extracted and compared; take --key.kind=judge and --key.judge"
        )
    if not has_gold(config.task) and "gold" in config.arms:
        raise SettingError(f"task.name={config.task.name!r}: it has no golds to fine-tune on; leave gold out, --arms=[full_weak]")
    if config.weak_file is not None:
        read_traces(config.weak_file, "weak_file")
    preference = None if config.preference is None else config.preference.resolved(config.strong)
    return config.model_copy(update={"fine_tune": config.fine_tune.resolved(config.strong), "preference": preference})
