"""Which arms an evaluation has, who instructs in each and who answers, by a run's settings. `teacher.workshop` makes them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.arms import RESERVED_ARMS, ArmConfig, EvalConfig, FixedPolicy
from evaluation.prompt_file import read_prompt
from exchange.protocols import InstructionPolicy, SamplingParams
from exchange.records import Instruction, PublicExample
from exchange.settings import SettingError, load
from student_clients import CountingStudent, StudentConfig
from student_clients.budget import price_of
from student_clients.errors import StudentError
from teacher.config import TrainConfig
from teacher.folder import load_teacher
from teacher.locate import find_teacher
from teacher.policy import TransformersPolicy, load_model
from teacher.prompt import TeacherPrompt
from teacher.run_directory import COMPLETE

VOTES = (3, 9)
"""Answers of the majority arm: two decide nothing, and a teacher that takes nine times raw's tokens has lost on cost."""


def teacher_prompt(config: TrainConfig) -> TeacherPrompt:
    """The prompt of a resolved config: the named template, else the preset's."""
    drafts = config.variant == "three_step"
    name = config.teacher.template or ("lab" if config.teacher.preset == "lab" else "default") + ("_three_step" if drafts else "")
    return TeacherPrompt.named(name, blind=config.teacher.blind, drafts=drafts)


def untrained_policy(config: TrainConfig, model_name: str, *, temperature: float = 0.0) -> TransformersPolicy:
    """A base model as it is, under the run's prompt."""
    model, tokenizer = load_model(model_name)
    limit = config.teacher.max_instruction_tokens or 1
    return TransformersPolicy(model, tokenizer, teacher_prompt(config), max_instruction_tokens=limit, temperature=temperature)


class StudentPolicy:
    """A student client that writes instructions, under a teacher's prompt. A call that fails leaves the question without one."""

    def __init__(self, student: CountingStudent, prompt: TeacherPrompt, params: SamplingParams) -> None:
        self.student = student
        self.prompt = prompt
        self.params = params
        self.tokens = (0, 0)
        """(prompt, completion) tokens of all instructions so far."""

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        return list(await asyncio.gather(*(self._instruct(example) for example in examples)))

    async def _instruct(self, example: PublicExample) -> Instruction:
        params = self.params.model_copy(update={"split": example.split})
        try:
            (answer,) = await self.student.complete(self.prompt.messages(example), params)
        except StudentError:
            return Instruction(text="", source="passthrough")
        self.tokens = (self.tokens[0] + answer.prompt_tokens, self.tokens[1] + answer.completion_tokens)
        text = (answer.text or "").strip()
        cut = answer.finish_reason == "length"
        return Instruction(text=text, source="teacher" if text else "silence", num_tokens=answer.completion_tokens, truncated=cut)


def arm_student(config: TrainConfig, name: str, arm: ArmConfig) -> StudentConfig:
    """Who answers in an arm. Raises SettingError."""
    return other_student(config, f"eval.arms.{name}.student", arm.student or {})


def other_student(config: TrainConfig, setting: str, settings: dict[str, Any]) -> StudentConfig:
    """Settings laid over the run's student, or, for another kind of student, over the defaults. Raises SettingError naming `setting`."""
    held = config.student.model_dump(mode="json", exclude_unset=True)
    given = dict(settings)
    kind = given.get("kind", "openai" if given.get("base_url") else config.student.kind)
    if kind != config.student.kind:
        held = {key: held[key] for key in ("temperature", "max_tokens", "seed", "cache", "pacing") if key in held}
    try:
        return load(StudentConfig, {**held, **given, "kind": kind})
    except SettingError as error:
        raise SettingError(f"{setting}.{error}") from None


def extra_policy(config: TrainConfig, name: str, arm: ArmConfig) -> InstructionPolicy:
    """Who instructs in a configured arm. Raises SettingError where more than one is named, or nobody and no student of its own."""
    given = [key for key in ("text", "file", "run", "model") if getattr(arm, key) is not None]
    if len(given) > 1 or (not given and arm.student is None):
        named = ", ".join(given) or "none"
        raise SettingError(f"eval.arms.{name}: give exactly one of text, file, run, model (given: {named}), or a student of its own")
    if arm.file is not None:
        return FixedPolicy(read_prompt(Path(arm.file), f"eval.arms.{name}.file"))
    if arm.run is not None:
        return load_teacher(find_teacher(arm.run)).policy
    if arm.model is not None:
        return untrained_policy(config, arm.model)
    return FixedPolicy(arm.text or "")


def check_arms(config: TrainConfig) -> None:
    """Raise SettingError for whatever the configured arms would stumble over; models are loaded when their turn comes."""
    if config.eval.samples > 1 and config.student.temperature == 0 and not config.student.reasoning_effort:
        raise SettingError(f"eval.samples={config.eval.samples}: a greedy student gives the same answer each time; set student.temperature")
    for name, arm in config.eval.arms.items():
        if name in RESERVED_ARMS:
            raise SettingError(f"eval.arms.{name}: this name is reserved; choose another, for example static:{name}")
        if arm.model is None or arm.text is not None or arm.file is not None or arm.run is not None:
            extra_policy(config, name, arm)
        elif arm.model.startswith(("/", ".", "~")) and not Path(arm.model).is_dir():
            raise SettingError(f"eval.arms.{name}.model={arm.model!r}: no such folder")
        if arm.student is not None:
            price_of(arm_student(config, name, arm), config.budget)


def folder_of(teacher: Path | None, name: str) -> Path | None:
    """A nested control run's teacher, where the run of `teacher` holds one."""
    folder = teacher.parent / name / "teacher" if teacher is not None else None
    return folder if folder is not None and folder.is_dir() else None


def warm_start_of(config: TrainConfig, teacher: Path | None) -> Path | None:
    """The run's model after its warm start; None where there was none."""
    warm = config.teacher.warm_start
    folder = teacher.parent / "checkpoints" / "warm_start" if teacher is not None else None
    return folder if folder is not None and (folder / COMPLETE).is_file() and warm is not None and (warm.questions or warm.file) else None


def training_calls(teacher: Path | None) -> int | None:
    """Answers that the teacher's training asked the student for; None where its run is not at hand."""
    log = teacher.parent / "episodes.jsonl" if teacher is not None else None
    if log is None or not log.is_file():
        return None
    with log.open("rb") as stream:
        return sum(max(1, len(json.loads(line)["completions"])) for line in stream if line.endswith(b"\n")) or None


def search_calls(config: TrainConfig, teacher: Path | None, training: int = 0) -> int:
    """Training questions that best_static and the router may ask, each: the setting, else as many as the teacher's training asked or is to
    ask, else the setting's default."""
    return config.eval.search_calls or training_calls(teacher) or training or int(EvalConfig().search_calls or 0)


def planned(config: TrainConfig, teacher: Path | None) -> list[str]:
    """Names of the arms of an evaluation, in the order of the table."""
    lab = config.task.name == "lab_arithmetic"
    greedy = config.student.temperature == 0 and not config.student.reasoning_effort
    include = config.eval.include
    wanted: set[str]
    if include is not None and "all" in include:
        wanted = {"cot", "best_static", "router", "majority", "self", *(["bigger"] if lab else []), *([] if greedy else ["raw_again"])}
    elif include is None:
        wanted = {"best_static", "router", "majority", "self", "bigger"} if lab else set()
        wanted |= set() if greedy else {"raw_again"}
    else:
        wanted = set(include)
    if "bigger" in wanted and not lab:
        raise SettingError(
            "eval.include: bigger is an arm of the lab world; name a model of your own as --eval.arms.model:NAME.model=HUB_ID"
        )
    cot = [f"static:{name}" for name in ("cot", "cot_format")] if "cot" in wanted else []
    extra = [name for name in config.eval.arms if name != "blind"]
    blind = ["blind"] if "blind" in config.eval.arms or folder_of(teacher, "blind") else []
    sft = ["sft"] if folder_of(teacher, "sft") or warm_start_of(config, teacher) else []
    searched = [name for name in ("best_static", "router", "majority") if name in wanted]
    taught = [name for name in ("self", "bigger") if name in wanted]
    again = ["raw_again"] if "raw_again" in wanted else []
    trained = ["trained"] if teacher is not None else []
    oracle = ["oracle"] if config.task.name.startswith("lab_") else []
    return ["raw", *again, "static", *cot, *searched, "untrained", *taught, *extra, *blind, *sft, *trained, *oracle]


def calls(config: TrainConfig, teacher: Path | None = None, arms: Sequence[str] = (), *, training: int = 0) -> int:
    """Student calls of an evaluation at most: of the named arms, else of all that apply. A run that is still to be trained counts with its
    trained arm and its warm start, and with the `training` calls that a search without a limit of its own may take too."""
    names = set(arms or planned(config, teacher))
    if teacher is None:
        names |= {"trained"} | ({"sft"} if config.teacher.warm_start is not None and config.teacher.warm_start.questions else set())
    searched = search_calls(config, teacher, training) * len(names & {"best_static", "router"})
    votes = config.eval.n * VOTES[1] if "majority" in names else 0
    asked = config.eval.n if "self" in names else 0
    return len(names - {"majority"}) * config.eval.n * config.eval.samples + searched + votes + asked
