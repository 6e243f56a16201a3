"""Warm start: best-of-N instructions by the student's own outcome, then supervised fine-tuning on them.

Every peer that works starts RL from a teacher that sometimes hits (DSP, M-Pilot, Promptist, RLT); from scratch a rare right instruction
may never be sampled, and a family of questions is never found. Calls go where they can still tell something: each question is first asked
raw, and where that is right silence is its best instruction; the others get instructions in waves until one of them made the student
right, at most N each. From the second wave on, those that worked on similar questions come before new ones.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from exchange.command import RunError
from exchange.protocols import Reward, SamplingParams, StudentClient
from exchange.records import Episode, Example, Instruction, PublicExample
from exchange.settings import SettingError
from rewards.episode import COUNTED, all_of, correct, counted, run_episode, worth
from rewards.shape import leaks
from tasks import answer_type_of
from tasks.source import read_lines, text_of
from teacher.borrowed import Borrowed
from teacher.config import WarmStartConfig
from teacher.policy import TransformersPolicy
from teacher.prompt import TeacherPrompt
from teacher.trl_on_cpu import score_labelled_tokens_alone

WAVE = 4
"""Instructions a question and wave: small enough to stop early, large enough that a slow student is kept busy."""
AT_ONCE = 512
"""Instructions of a wave that are written while the student answers those before: a few batches of either model."""
MOSTLY = 0.75
"""Mean grade from which several answers of a student that samples count as right: three of four."""
KEPT = 2
"""Instructions kept a question at most, so that easy questions do not drown the rest."""


async def best_of_n(
    policy: TransformersPolicy,
    examples: list[Example],
    samples: int,
    *,
    student: StudentClient,
    params: SamplingParams,
    reward: Reward,
    answers: int = 1,
    borrowed: float = 0.0,
    seed: int = 0,
    record: Callable[[list[Episode]], None],
) -> list[Episode]:
    """Silence, then up to `samples` instructions for each question, in waves, until one made the student right.

    `answers` are asked for under each; `borrowed` is the share of a later wave that worked on similar questions, at most, and `seed` says
    which; `record` gets the episodes as they are paid for.

    Raises RunError where every call of a wave failed so far.
    """

    borrowing = borrowed > 0 and samples > WAVE and all(map(_may_borrow, examples))
    shown = ["\n".join([*(turn.content for turn in example.history), example.query]) for example in examples]
    index = {text: i for i, text in enumerate(dict.fromkeys(shown))}
    place = {example.id: index[text] for example, text in zip(examples, shown, strict=True)}
    worked = Borrowed(list(index) if borrowing else [], seed=seed)

    async def ask(asked: list[Example], instructions: list[Instruction]) -> list[Episode]:
        if not asked:
            return []
        answered = await all_of(
            run_episode(example, instruction, arm="warm_start", student=student, params=params, reward=reward, samples=answers)
            for example, instruction in zip(asked, instructions, strict=True)
        )
        record(answered)
        for example, episode in zip(asked, answered, strict=True):
            if borrowing and not leaks(episode.instruction, example, answer_type_of(example.task)):  # a guess at an answer is not lent
                worked.tell(place[example.id], episode.instruction, pays(episode) if correct(episode) is not None else None)
        return answered

    async def write(asked: list[Example]) -> list[Instruction]:
        return await policy.instruct([example.public() for example in asked]) if asked else []

    episodes = await ask(examples, [Instruction(text="", source="silence")] * len(examples))
    _refuse_where_all_failed(episodes, before=[])
    new: list[Episode] = []
    for start in range(0, samples, WAVE):
        left, several = _unsolved(examples, episodes), min(WAVE, samples - start)
        if not left:
            break
        room = dict.fromkeys((example.id for example in left), several)
        judged = [pays(episode) for episode in new if correct(episode) is not None]
        most = math.ceil(borrowed * several) if borrowing else 0
        suggested = worked.suggest([place[example.id] for example in left], most, sum(judged) / max(1, len(judged)))
        pairs = [(example, text) for example, texts in zip(left, suggested, strict=True) for text in texts]
        wave = await ask([example for example, _ in pairs], [text for _, text in pairs])
        for example, _ in pairs:
            room[example.id] -= 1
        asked = [example for example in _unsolved(left, wave) for _ in range(room[example.id])]
        written: tuple[list[Example], list[Instruction]] = [], []
        for first in range(0, len(asked) + AT_ONCE, AT_ONCE):  # once more than there are parts, for the answers to the last
            part = asked[first : first + AT_ONCE]
            # Each step waits for both, so that what shares a batch does not depend on who was faster; and what is paid for is let finish.
            both: list[Any] = await all_of([ask(*written), write(part)])
            wave += both[0]
            if both[0] or not asked:
                _refuse_where_all_failed(wave, before=episodes)
            written = part, both[1]
        episodes += wave
        new += wave[len(pairs) :]
    return episodes


def _may_borrow(example: Example) -> bool:
    """Advice on one draft reads another one wrong; where few answers are possible ("Option B fits."), a text that hit is often a guess."""
    return example.draft is None and answer_type_of(example.task) not in ("choice", "yes_no")


def _unsolved(examples: list[Example], episodes: list[Episode]) -> list[Example]:
    solved = {episode.example_id for episode in episodes if pays(episode)}
    return [example for example in examples if example.id not in solved]


def _refuse_where_all_failed(wave: list[Episode], *, before: list[Episode]) -> None:
    """Raises RunError, but not where all that is left are questions that the student never answered `before`: a content filter's, say."""
    answered = {episode.example_id for episode in before if not episode.error}
    if wave and all(episode.error for episode in wave) and (not before or any(e.example_id in answered for e in wave)):
        raise RunError(f"warm start: every student call of a wave failed ({wave[0].error}); go on with --resume")


def pays(episode: Episode) -> bool:
    """Whether the student was right, or clearly preferred, under a well-formed instruction or silence; of several answers in the mean."""
    judged = [score for score in episode.scores if score.value is not None]
    grade = correct(episode)
    if grade is None or grade < (COUNTED[counted(judged[0])] if len(judged) == 1 else MOSTLY):
        return False
    return not any(name in score.parts for score in judged for name in ("ill_formed", "leakage"))


def keep_best(episodes: list[Episode], rng: random.Random) -> list[tuple[str, str]]:
    """(example id, instruction) of the paying episodes of highest value, distinct, at most KEPT a question."""
    by_example: dict[str, dict[str, float]] = defaultdict(dict)
    for episode in episodes:
        if pays(episode) and (value := worth(episode)) is not None:
            by_example[episode.example_id][episode.instruction.text] = value
    kept: list[tuple[str, str]] = []
    for example_id, texts in by_example.items():
        best = [text for text in texts if texts[text] == max(texts.values())]
        kept += [(example_id, text) for text in rng.sample(best, min(KEPT, len(best)))]
    return kept


def logged_rows(file: str, prompt: TeacherPrompt) -> list[dict[str, Any]]:
    """Rows for `fine_tune` from JSON lines {"query", "instruction", "history"?, "draft"?}; an empty instruction is silence.

    Raises SettingError naming file and line.
    """
    rows = []
    for number, line in read_lines(Path(file)):
        where = f"teacher.warm_start.file={file}:{number}"
        if not isinstance(line.get("instruction"), str):
            raise SettingError(f"{where}: field 'instruction' is missing or not text")
        try:
            example = PublicExample(
                id=str(number),
                task="logged",
                split="train",
                query=text_of(line, "query", where),
                history=line.get("history") or (),
                draft=line.get("draft"),
            )
        except ValidationError:
            raise SettingError(f"{where}: field 'history' is no list of messages, or 'draft' no text") from None
        if prompt.drafts and example.draft is None:
            raise SettingError(f"{where}: field 'draft' is missing, which a three-step teacher advises on")
        rows.append(
            {
                "prompt": [message.model_dump() for message in prompt.messages(example)],
                "completion": [{"role": "assistant", "content": line["instruction"]}],
            }
        )
    return rows


def fine_tune(
    model: Any, tokenizer: Any, rows: list[dict[str, Any]], config: WarmStartConfig, *, seed: int, work: Path, peft_config: Any = None
) -> Any:
    """Supervised fine-tuning on {"prompt": [...], "completion": [...]} rows, loss on the completion alone; returns the tuned model.

    With a peft config an adapter is trained and merged into the weights.
    """
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    on_gpu = torch.cuda.is_available()
    args = SFTConfig(
        output_dir=str(work),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        lr_scheduler_type="linear",
        warmup_steps=5,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        completion_only_loss=True,
        use_cpu=not on_gpu,
        bf16=on_gpu,
        activation_checkpointing=False,
        save_strategy="no",
        report_to=[],
        logging_steps=50,
        disable_tqdm=True,
        seed=seed,
        max_length=None,
    )
    score_labelled_tokens_alone()
    trainer = SFTTrainer(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=peft_config)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return model if peft_config is None else trainer.model.merge_and_unload()
