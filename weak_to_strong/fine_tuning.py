"""Supervised fine-tuning of the strong student with TRL's SFTTrainer, behind the checks whose absence breaks it silently elsewhere.

Before anything is trained: the chat template renders the whole chain (templates of thinking models cut it out of assistant turns), an
over-long chain is dropped and counted instead of cut, and the end token is among what every row learns. After every epoch: how many answers
to held-out questions end by themselves and how many run into the token limit, because stopping is what fine-tuning on long chains destroys
first.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from exchange.command import RunError
from exchange.compose import raw_messages
from exchange.records import Completion, Example, Message, PublicExample
from exchange.settings import SettingError, Settings
from lab.weights_folder import resolve_model
from rewards.correctness import Grader, grade_answer
from teacher.policy import TransformersPolicy, end_ids, load_model
from teacher.prompt import TeacherPrompt
from teacher.run_directory import COMPLETE, RunDirectory, mark_complete
from teacher.trl_on_cpu import score_labelled_tokens_alone
from weak_to_strong.cost import trained
from weak_to_strong.run import StrongConfig


class FineTuneConfig(Settings):
    """Supervised fine-tuning; what is None is the preset's: `lab` for a lab model, else `hub`."""

    learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate. None = lab 3e-4, where 1e-3 was seen to copy the weak model's slips; hub 1e-5 for all weights (W2SR's 7B
    students) and 1e-4 for an adapter."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the chains. None = lab 2; hub 3 for all weights, 2 for an adapter: five epochs of LoRA were seen to destroy stopping."""
    batch_size: int | None = Field(default=None, ge=1)
    """Chains a step. None = lab 16; hub 64."""
    device_batch_size: int | None = Field(default=None, ge=1)
    """Chains computed at a time, the rest of a step by accumulation. None = all of a step in the lab; hub 2."""
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    """Of the learning rate after the warm-up; cosine: W2SR."""
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the rate rises; 0.1: W2SR."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    max_length: int = Field(default=4096, ge=8)
    """Tokens of prompt and chain together; a longer row is dropped, never cut. 4096: W2SR."""
    watch: int = Field(default=100, ge=0)
    """Validation questions answered after every epoch, for stop, truncation and accuracy rates; 0 = none."""

    def resolved(self, strong: StrongConfig) -> FineTuneConfig:
        """With every None filled from the preset."""
        lab, lora = strong.model.startswith("lab:"), strong.lora is not None
        batch = self.batch_size or (16 if lab else 64)
        return self.model_copy(
            update={
                "learning_rate": self.learning_rate or (3e-4 if lab else 1e-4 if lora else 1e-5),
                "epochs": self.epochs or (2 if lab else 2 if lora else 3),
                "batch_size": batch,
                "device_batch_size": min(batch, self.device_batch_size or (batch if lab else 2)),
            }
        )


class AsAsked(TeacherPrompt):
    """The prompt of a model that answers by itself: the conversation as the app sends it."""

    def messages(self, example: PublicExample) -> list[Message]:
        return list(raw_messages(example))


AS_ASKED = AsAsked("{query}")


def rows_of(pairs: Sequence[tuple[Example, str]]) -> list[dict[str, Any]]:
    """TRL's conversational prompt-completion rows of (question, text to learn) pairs."""
    return [
        {
            "prompt": [message.model_dump() for message in raw_messages(example.public())],
            "completion": [{"role": "assistant", "content": text}],
        }
        for example, text in pairs
    ]


def fitting(rows: Sequence[dict[str, Any]], tokenizer: Any, max_length: int) -> tuple[list[dict[str, Any]], int]:
    """(the rows that fit, how many were too long and are dropped).

    Raises SettingError where the chat template does not show a text as it stands: it would be trained without its chain.
    """
    kept = []
    for row in rows:
        text = row["completion"][-1]["content"]
        rendered = tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False)
        if text.strip() not in rendered:
            raise SettingError(
                "strong.model: its chat template changes what the assistant said (templates of thinking models cut out what stands before "
                f"</think>): {text[:60]!r} is not in the rendered row; give the tokenizer a template that keeps assistant turns whole"
            )
        if len(tokenizer(rendered, add_special_tokens=False)["input_ids"]) <= max_length:
            kept.append(row)
    return kept, len(rows) - len(kept)


def check_labels(dataset: Any, ends: frozenset[int]) -> int:
    """The number of tokens of a prepared data set (columns input_ids, labels). Raises SettingError unless every row learns an
    end token."""
    total = 0
    for number, row in enumerate(dataset):
        if not ends & set(row["labels"]):
            raise SettingError(
                f"strong.model: row {number} learns no end token, so the student would never learn to stop; its chat template must close "
                "an assistant's turn with one of the model's end tokens"
            )
        total += len(row["input_ids"])
    return total


def watch(model: Any, tokenizer: Any, examples: Sequence[Example], max_tokens: int) -> dict[str, float]:
    """Greedy answers of the model as it is: share that stop, share cut at `max_tokens`, share right (of those with a grade)."""
    policy = TransformersPolicy(model, tokenizer, AS_ASKED, max_instruction_tokens=max_tokens)
    answers = policy._instruct([example.public() for example in examples], _NEVER)

    async def grade() -> list[float | None]:
        grader = Grader()
        pairs = zip(examples, answers, strict=True)
        return [(await grade_answer(grader, example, Completion(text=answer.text))).value for example, answer in pairs]

    grades = [value for value in asyncio.run(grade()) if value is not None]
    cut = sum(answer.truncated for answer in answers) / len(answers)
    return {
        "stop_rate": round(1 - cut, 4),
        "truncation_rate": round(cut, 4),
        "right": round(sum(grades) / len(grades), 4) if grades else 0.0,
        "n": len(answers),
    }


def fine_tune(
    base: str | Path,
    rows: Sequence[dict[str, Any]],
    config: FineTuneConfig,
    strong: StrongConfig,
    *,
    seed: int,
    out: Path,
    work: Path,
    watched: Sequence[Example] = (),
    callbacks: Sequence[Any] = (),
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train `base` on rows of `rows_of` and save it, whole, as the folder `out`; what happened: rows, steps, tokens, loss, epochs, cost.

    `work` keeps a checkpoint an epoch, from which a killed run goes on, and is removed at the end. `config` is resolved.
    Raises SettingError where a check fails, RunError where nothing is left to train on.
    """
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback, TrainerCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    set_seed(seed)
    model, tokenizer = load_model(str(base), called="strong model")
    kept, too_long = fitting(rows, tokenizer, config.max_length)
    if not kept:
        raise RunError(f"all {len(rows)} rows are longer than fine_tune.max_length={config.max_length} tokens; raise it")
    disable_progress_bars()
    on_gpu = torch.cuda.is_available()
    assert config.batch_size and config.device_batch_size, "resolved"
    args = SFTConfig(
        output_dir=str(work), learning_rate=config.learning_rate, lr_scheduler_type=config.schedule, warmup_steps=config.warmup_share,
        num_train_epochs=config.epochs, per_device_train_batch_size=config.device_batch_size, weight_decay=config.weight_decay,
        gradient_accumulation_steps=max(1, config.batch_size // config.device_batch_size), completion_only_loss=True, use_cpu=not on_gpu,
        bf16=on_gpu, activation_checkpointing=False, save_strategy="epoch", save_total_limit=1, report_to=[], logging_steps=10,
        disable_tqdm=True, seed=seed, max_length=None,
    )  # fmt: skip
    log = RunDirectory(work)
    work.mkdir(parents=True, exist_ok=True)

    class Watching(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            epoch = round(state.epoch)
            line: dict[str, Any] = {"epoch": epoch, "step": state.global_step}
            if watched:
                line |= watch(kwargs["model"], tokenizer, watched, strong.max_tokens)
                say(f"epoch {epoch}: right {line['right']:.1%}, stops {line['stop_rate']:.1%}, cut {line['truncation_rate']:.1%}")
            log.append("epochs.jsonl", line)

    score_labelled_tokens_alone()
    trainer = SFTTrainer(
        model=model, args=args, train_dataset=Dataset.from_list(kept), processing_class=tokenizer, peft_config=lora(strong),
        callbacks=[Watching(), marking(), *callbacks],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    assert len(trainer.train_dataset) == len(kept), "TRL drops no row of ours"
    tokens = check_labels(trainer.train_dataset, end_ids(model, tokenizer))
    trainer.train(resume_from_checkpoint=last_whole(work))
    tuned = model if strong.lora is None else trainer.model.merge_and_unload()
    save_model(tuned, tokenizer, out, base=base)
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    epochs = {line["epoch"]: line for line in log.lines("epochs.jsonl")}
    shutil.rmtree(work)
    parameters = sum(p.numel() for p in tuned.parameters())
    return {
        "rows": len(kept),
        "too_long": too_long,
        "steps": trainer.state.global_step,
        "loss": round(losses[-1], 4) if losses else None,
        "epochs": list(epochs.values()),
        "parameters": parameters,
        "cost": trained(parameters, tokens * (config.epochs or 1)).model_dump(),
    }


class _Never:
    """Nobody gives up waiting."""

    def is_set(self) -> bool:
        return False


_NEVER: Any = _Never()


def lora(strong: StrongConfig) -> Any:
    if strong.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(r=strong.lora.r, lora_alpha=strong.lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM")


def marking() -> Any:
    """A TrainerCallback that marks every checkpoint when all of it is on disk; `last_whole` takes no other."""
    from transformers import TrainerCallback

    class Marking(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return Marking()


def last_whole(work: Path) -> str | None:
    """The newest whole checkpoint; torn ones, which a killed process leaves, are removed."""
    found = []
    for folder in work.glob("checkpoint-*"):
        if (folder / COMPLETE).exists():
            found.append((int(folder.name.rpartition("-")[2]), folder))
        else:
            shutil.rmtree(folder)
    return str(max(found)[1]) if found else None


def save_model(model: Any, tokenizer: Any, out: Path, *, base: str | Path) -> None:
    """Write a model folder that an embedded student, vLLM or transformers takes; readable by others, marked when whole. It ships the
    sampling defaults of its `base`."""
    from transformers import GenerationConfig

    if out.exists():
        shutil.rmtree(out)
    model.save_pretrained(out)
    with suppress(OSError):  # a base without any
        GenerationConfig.from_pretrained(resolve_model(str(base))).save_pretrained(out)
    tokenizer.save_pretrained(out)
    for path in out.glob("*.safetensors"):
        path.chmod(0o644)
    mark_complete(out)
