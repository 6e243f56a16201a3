"""The one config tree of a training run, and the two presets that fill in what a user leaves open.

`lab` values were measured here on the lab world (`docs/results.md`). `hub` values are for real models: "literature, not measured here",
each with its source. A teacher from the Hub or a folder never inherits lab values.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from evaluation.arms import EvalConfig
from exchange.settings import Settings, switched
from rewards.rubric import RewardConfig
from student_clients import BudgetConfig, StudentConfig
from student_clients.bulk import RayConfig
from tasks import TaskConfig, has_gold
from teacher.alarms import AlarmConfig
from teacher.ppo import PPOConfig

Algorithm = Literal["grpo", "rloo", "ppo"]

LAB_TRL: dict[str, Any] = {
    "learning_rate": 4e-4,
    # At a constant rate the later steps unlearn silence: harm 1.3 % of the questions right raw at step 50, 8.8 % at 100; 0.1 % with decay.
    "lr_scheduler_type": "linear",
    "warmup_steps": 5,
    "per_device_train_batch_size": 192,
    "num_generations": 12,
    "beta": 0.0,
    "temperature": 1.0,
}
LAB_ALGORITHM: dict[Algorithm, dict[str, Any]] = {
    "grpo": {"scale_rewards": "none", "loss_type": "dr_grpo"},
    "rloo": {},
    # The critic is the baseline, so that siblings teach less than other questions do; TRL wants two.
    "ppo": {"num_generations": 2, "loss_type": "bnpo"},
}
# Literature, not measured here.
HUB_TRL: dict[str, Any] = {
    # 1e-6 in Advisor Models, Prompt-R1, PRL and Arbor; 5e-5 collapsed a 0.6B model (hello-agents #770).
    "learning_rate": 1e-6,
    # Constant after a short warm-up: RLT keeps 1e-6 constant; TRL's default would decay it to nothing.
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 10,
    # Group of 8: Advisor Models, PedagogicalRL; 16 questions a step: Advisor Models.
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 16,
    "num_generations": 8,
    # KL 0.001: Advisor Models, Prompt-R1, PedagogicalRL; query rewriters without it turn to gibberish (ConvSearch-R1 #6).
    "beta": 0.001,
    # Advisor Models samples its advisor at 1.0; lower temperatures starve the group of variance.
    "temperature": 1.0,
}
HUB_ALGORITHM: dict[Algorithm, dict[str, Any]] = {
    # Group scaling would cancel any price on harm (Dr. GRPO, arXiv 2503.20783; Arbor and PAPILLON use none). The loss is TRL's default,
    # and Arbor's.
    "grpo": {"scale_rewards": "none", "loss_type": "dapo"},
    # KL inside the reward: TRL's own default (Ahmadian et al., arXiv 2402.14740, tune it per task).
    "rloo": {"beta": 0.05},
    # Four epochs a batch: InstructGPT and Promptist.
    "ppo": {"num_generations": 2, "num_iterations": 4, "loss_type": "bnpo"},
}


class RunConfig(Settings):
    """Where a run lies and who follows it."""

    dir: str | None = None
    """Run directory; None = a new one under WST_RUNS_DIR (default `runs`)."""
    report_to: str = "none"
    """Trackers by TRL's names (tensorboard, trackio, wandb), comma separated; tensorboard's events lie in the run's `tensorboard/`."""
    sample_every: int | None = Field(default=None, ge=1)
    """Steps between two looks at samples: the step's best, its worst and one more episode are printed. None = none; episodes.jsonl has
    all of them."""
    push_to_hub: str | None = Field(default=None, pattern=r"^[\w.-]+(/[\w.-]+)?$")
    """Hub repository (OWNER/NAME) that takes the finished teacher with its model card; login by HF_TOKEN or `hf auth login`."""
    hub_private: bool = True
    """Whether a repository that is made for it is private."""
    gpu_gib: float | None = Field(default=None, gt=0)
    """Memory of the card in GiB, for `--dry-run` to say whether the run fits; None = that of the card that is seen."""


class WarmStartConfig(Settings):
    """Best-of-N before RL: keep silence where raw is right, else instructions after which the student was right; fine-tune on them."""

    questions: int = Field(default=200, ge=0)
    """Training questions asked; 0 = no warm start. 200: M-Pilot (arXiv 2410.20749)."""
    samples: int = Field(default=8, ge=2)
    """Instructions tried at most for a question that no earlier one solved, each costing `student.samples` calls. 8: the group size of
    Advisor Models."""
    borrowed: float = Field(default=0.0, ge=0, le=1)
    """Share of those after the first four, rounded up by wave, that worked on similar questions, where there are such; 0 = all are new, as
    they are anyway where the teacher advises on drafts or the answer is a choice or yes/no. 0.5 takes a quarter off the warm start's calls,
    for a run that can pay for few; such a teacher is surer of itself on questions told in a new way, where it is wrong too (docs/log.md)."""
    epochs: float = Field(default=3.0, gt=0)
    """Passes over the kept instructions. 3: usual for a few hundred rows."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Fine-tuning rate; 1e-5 is usual for full fine-tuning of small language models."""
    batch_size: int = Field(default=16, ge=1)
    """Kept instructions a step."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    file: str | None = None
    """JSON lines {"query", "instruction"} to learn from as well, e.g. what `teacher.collect` kept of a service's log."""


LAB_WARM_START = WarmStartConfig(questions=1000, samples=24, epochs=10.0, learning_rate=2e-3, batch_size=32, weight_decay=0.5)


class FilterConfig(Settings):
    """How many of the questions that the warm start settled go into the batches of RL."""

    raw_right: float = Field(default=1.0, ge=0, le=1)
    """Share kept of the questions that were right raw; 1 = all."""
    hopeless: float = Field(default=1.0, ge=0, le=1)
    """Share kept of the questions that were right neither raw nor under any of the warm start's instructions; 1 = all."""


class ValidationConfig(Settings):
    """Who answers in validation and evaluation where it is not the training student: train on a cheap one, keep and measure what helps
    another."""

    student: StudentConfig | None = None
    """Settings of that student, its cache and pacing included; None = the training student."""
    budget: BudgetConfig = BudgetConfig()
    """What may be spent on it, beside the run's `budget`."""


class LoraConfig(Settings):
    """Train a low-rank adapter instead of all weights (peft)."""

    r: int = Field(default=16, ge=1)
    """Rank."""
    alpha: int = Field(default=32, ge=1)
    """Scale; 2 r is usual (PRL: r 8, alpha 32)."""


class TeacherConfig(Settings):
    """The model that writes instructions."""

    model: str = "lab:arithmetic/teacher"
    """Hugging Face folder, Hub id, or a lab model as lab:WORLD/ROLE."""
    preset: Literal["lab", "hub"] | None = None
    """Which defaults fill what is not set; None = lab for a lab: model, hub for every other."""
    template: str | None = None
    """File with the teacher's prompt, holding {query}; None = the preset's own (teacher/templates)."""
    blind: bool = False
    """Control run: the query is hidden from the teacher, which then can only learn one text for all."""
    max_instruction_tokens: int | None = Field(default=None, ge=1)
    """Longest instruction in tokens; None = the preset's (lab 40, hub 128: DSP keeps to 64, Promptist to 75, Advisor Models to 3-4
    sentences)."""
    warm_start: WarmStartConfig | None = None
    """Best-of-N fine-tuning before RL; what is not set is the preset's."""
    silence_bias: float | None = Field(default=None, ge=0.0, le=100.0)
    """Added to the logits of end tokens in the finished teacher, so that it keeps silent where it is in doubt whether it is needed. None =
    chosen on the validation questions (teacher/silence.py)."""
    lora: LoraConfig | None = None
    """Adapter training; None = all weights."""


class TrainConfig(Settings):
    """A training run; every setting is also a flag `--a.b=value`."""

    run: RunConfig = RunConfig()
    """Where the run lies."""
    task: TaskConfig = TaskConfig()
    """What is asked."""
    student: StudentConfig = StudentConfig()
    """Who answers."""
    validation: ValidationConfig = ValidationConfig()
    """Who answers in validation and evaluation."""
    teacher: TeacherConfig = TeacherConfig()
    """Who instructs."""
    reward: RewardConfig = RewardConfig()
    """What an answer is worth."""
    variant: Literal["two_step", "three_step"] = "two_step"
    """`two_step`: the student answers under the instruction; `three_step`: it drafts an answer, the teacher advises on the draft, and it
    revises, at one more call a question and longer prompts. A three-step teacher is trained and evaluated; the server has no drafts."""
    stage: Literal["all", "sft"] = "all"
    """`sft`: the warm start alone, exported and measured; `all`: RL after it."""
    algorithm: Algorithm = "grpo"
    """How the teacher learns: grpo (Shao et al., arXiv 2402.03300), rloo (Ahmadian et al., arXiv 2402.14740), ppo (Schulman et al.,
    arXiv 1707.06347)."""
    filter: FilterConfig = FilterConfig()
    """Which questions RL spends its calls on."""
    ppo: PPOConfig = PPOConfig()
    """PPO's value model; read by `algorithm: ppo` alone."""
    rollout_ahead: int = Field(default=0, ge=0, le=8)
    """Batches of instructions that the student answers while the teacher learns from an earlier one. 0 = exactly on-policy, and a resumed
    run is the unbroken one bit for bit; 1 hides a slow student behind the learner and the other way round, at one update of staleness."""
    max_steps: int | None = Field(default=None, ge=0)
    """Updates of the teacher; None = the preset's (lab 50, hub 300: query rewriters were seen to collapse at 270 to 300,
    ConvSearch-R1 #6)."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Seed of every random draw of the run."""
    trl: dict[str, Any] = Field(default_factory=dict)
    """Any field of TRL's GRPOConfig (RLOOConfig for rloo), laid over the preset's."""
    alarms: AlarmConfig = AlarmConfig()
    """What a run is watched for."""
    eval: EvalConfig = EvalConfig()
    """How the teacher is measured."""
    budget: BudgetConfig = BudgetConfig()
    """What the run may spend."""
    ray: RayConfig | None = None
    """`--ray`, or any setting of it: the arms of an evaluation are answered on Ray workers; None = in this process."""

    _ray_alone = field_validator("ray", mode="before")(switched)

    def measured(self) -> TrainConfig:
        """The settings of what is measured: those of the run, with the student and the budget of its validation."""
        if self.validation.student is None:
            return self
        update = {"student": self.validation.student, "budget": self.validation.budget, "validation": ValidationConfig()}
        return self.model_copy(update=update)

    @model_validator(mode="after")
    def _no_key_twice(self) -> TrainConfig:
        for key, owner in OWNED_BY_US.items():
            if key in self.trl:
                raise ValueError(f"trl.{key}={self.trl[key]!r}: set {owner} instead, which TRL's {key} is filled from")
        return self


OWNED_BY_US = {
    "max_steps": "max_steps",
    "seed": "seed",
    "max_completion_length": "teacher.max_instruction_tokens",
    "save_steps": "eval.every",
    "save_strategy": "eval.every",
    "output_dir": "run.dir",
    "report_to": "run.report_to",
    "push_to_hub": "run.push_to_hub",
    "logging_steps": "nothing: every step is logged",
    "logging_strategy": "nothing: every step is logged",
    "remove_unused_columns": "nothing: the reward reads the columns",
}


def resolve(config: TrainConfig) -> TrainConfig:
    """Fill everything a user left open from the preset; the result names every value that the run uses."""
    teacher = config.teacher
    preset = teacher.preset or ("lab" if teacher.model.startswith("lab:") else "hub")
    lab = preset == "lab"
    preset_warm_start = LAB_WARM_START if lab else WarmStartConfig()
    set_by_user = teacher.warm_start.model_dump(exclude_unset=True) if teacher.warm_start is not None else {}
    update = {
        "preset": preset,
        "max_instruction_tokens": teacher.max_instruction_tokens or (40 if lab else 128),
        "warm_start": preset_warm_start.model_copy(update=set_by_user),
    }
    leakage = config.reward.leakage_penalty
    if leakage is None:
        leakage = 1.0 if not lab and has_gold(config.task) else 0.0
    return config.model_copy(
        update={
            "reward": config.reward.model_copy(update={"leakage_penalty": leakage}),
            "teacher": teacher.model_copy(update=update),
            "max_steps": 0 if config.stage == "sft" else config.max_steps if config.max_steps is not None else (50 if lab else 300),
            "trl": {**(LAB_TRL if lab else HUB_TRL), **(LAB_ALGORITHM if lab else HUB_ALGORITHM)[config.algorithm], **config.trl},
            "ppo": config.ppo.model_copy(update={"critic_learning_rate": config.ppo.critic_learning_rate or (1e-3 if lab else 1e-5)}),
        }
    )
