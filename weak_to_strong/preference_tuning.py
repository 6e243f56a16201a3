"""Preference tuning of the Stage I model with TRL: DPO (Rafailov et al., arXiv 2305.18290) or ORPO (Hong et al., arXiv 2403.07691).

DPO's reference is the Stage I model, and it is handed over as a model of its own: left to itself TRL loads the reference from the path
in the model's config, and under an adapter takes the weights below it, which are the Stage I model only because that was merged.
ORPO has no reference. As in fine-tuning, what is too long is dropped and counted, never cut.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from exchange.command import RunError
from exchange.settings import Settings
from teacher.policy import load_model, load_tokenizer
from teacher.trl_on_cpu import score_labelled_tokens_alone
from weak_to_strong.cost import trained
from weak_to_strong.fine_tuning import fitting, last_whole, lora, marking, save_model
from weak_to_strong.run import StrongConfig


class PreferenceConfig(Settings):
    """Stage II's training; what is None is the preset's: `lab` for a lab model, else `hub`. The authors published no rates."""

    algorithm: Literal["dpo", "orpo"] = "dpo"
    """dpo, against the Stage I model as reference, or orpo, which needs none."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate. None = lab 1e-4; hub 5e-6 for dpo, 8e-6 for orpo."""
    beta: float = Field(default=0.1, gt=0)
    """dpo: strength of the pull to the reference; orpo: weight of the odds-ratio term (lambda)."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the pairs."""
    batch_size: int | None = Field(default=None, ge=1)
    """Pairs a step. None = lab 16, hub 32."""
    device_batch_size: int | None = Field(default=None, ge=1)
    """Pairs computed at a time, the rest of a step by accumulation. None = all of a step in the lab; hub 1."""
    keep_likely: float = Field(default=0.0, ge=0)
    """dpo: weight of the chosen text's own likelihood beside the preference (TRL's loss "sft"), which keeps it from sinking with the
    rejected one's. 0 = none."""
    max_length: int = Field(default=4096, ge=8)
    """Tokens of prompt and answer together; a pair with a longer side is dropped."""

    def resolved(self, strong: StrongConfig) -> PreferenceConfig:
        """With every None filled from the preset."""
        lab = strong.model.startswith("lab:")
        batch = self.batch_size or (16 if lab else 32)
        rate = self.learning_rate or (1e-4 if lab else 5e-6 if self.algorithm == "dpo" else 8e-6)
        device = min(batch, self.device_batch_size or (batch if lab else 1))
        return self.model_copy(update={"learning_rate": rate, "batch_size": batch, "device_batch_size": device})


def pairs_that_fit(rows: Sequence[dict[str, Any]], tokenizer: Any, max_length: int) -> tuple[list[dict[str, Any]], int]:
    """(the pairs both of whose sides fit, how many are dropped). Raises SettingError where the chat template does not show a text whole."""
    kept = []
    for row in rows:
        sides = [{"prompt": row["prompt"], "completion": row[side]} for side in ("chosen", "rejected")]
        if len(fitting(sides, tokenizer, max_length)[0]) == 2:
            kept.append({name: row[name] for name in ("prompt", "chosen", "rejected")})
    return kept, len(rows) - len(kept)


def preference_trainer(
    base: str | Path, rows: Sequence[dict[str, Any]], config: PreferenceConfig, strong: StrongConfig, *, seed: int, work: Path,
    callbacks: Sequence[Any] = (),
) -> Any:  # fmt: skip
    """TRL's trainer on pairs {"prompt", "chosen", "rejected"} of messages, the model and the reference both loaded from the folder `base`.
    `config` is resolved."""
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback

    disable_progress_bars()
    model, tokenizer = load_model(str(base), called="strong model")
    on_gpu = torch.cuda.is_available()
    assert config.batch_size and config.device_batch_size, "resolved"
    common: dict[str, Any] = {
        "output_dir": str(work), "learning_rate": config.learning_rate, "lr_scheduler_type": "cosine", "warmup_steps": 0.1,
        "num_train_epochs": config.epochs, "per_device_train_batch_size": config.device_batch_size, "beta": config.beta,
        "gradient_accumulation_steps": max(1, config.batch_size // config.device_batch_size), "use_cpu": not on_gpu, "bf16": on_gpu,
        "save_strategy": "epoch", "save_total_limit": 1, "report_to": [], "logging_steps": 5, "disable_tqdm": True, "seed": seed,
        "remove_unused_columns": False, "max_length": config.max_length, "activation_checkpointing": False,
    }  # fmt: skip
    data = Dataset.from_list(list(rows))
    adapter = lora(strong)
    trainer: Any
    if config.algorithm == "dpo":
        from trl import DPOConfig, DPOTrainer

        losses = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, config.keep_likely]} if config.keep_likely else {}
        reference = None if adapter is not None else load_model(str(base), called="strong model")[0]
        score_labelled_tokens_alone()
        trainer = DPOTrainer(
            model=model, ref_model=reference, args=DPOConfig(**common, **losses), train_dataset=data, processing_class=tokenizer,
            peft_config=adapter, callbacks=list(callbacks),
        )  # fmt: skip
    else:
        import os

        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        # It puts the tokenizer's begin token before every prompt, where the chat template, and so every later prompt, may have none.
        tokenizer.bos_token = None
        trainer = ORPOTrainer(
            model=model,
            args=ORPOConfig(**common),
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=adapter,
            callbacks=list(callbacks),
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def prefer(
    base: str | Path, rows: Sequence[dict[str, Any]], config: PreferenceConfig, strong: StrongConfig, *, seed: int, out: Path, work: Path,
    callbacks: Sequence[Any] = (),
) -> dict[str, Any]:  # fmt: skip
    """Train the Stage I model in `base` on preference rows and save it, whole, as the folder `out`; what happened.

    A killed run goes on from its last epoch in `work`, which is removed at the end. Raises RunError where no pair is left.
    """
    from transformers import set_seed

    set_seed(seed)
    tokenizer = load_tokenizer(str(base), called="strong model")
    kept, too_long = pairs_that_fit(rows, tokenizer, config.max_length)
    if not kept:
        why = f"all {len(rows)} pairs are longer than preference.max_length={config.max_length} tokens" if rows else "there are no pairs"
        raise RunError(f"stage two: {why}")
    trainer = preference_trainer(base, kept, config, strong, seed=seed, work=work, callbacks=[marking(), *callbacks])
    trainer.train(resume_from_checkpoint=last_whole(work) if work.exists() else None)
    tuned = trainer.model if strong.lora is None else trainer.model.merge_and_unload()
    save_model(tuned, tokenizer, out, base=base)
    shutil.rmtree(work, ignore_errors=True)
    history = trainer.state.log_history
    lengths = [
        len(tokenizer(tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=False), add_special_tokens=False)["input_ids"])
        for row in kept
        for side in ("chosen", "rejected")
    ]
    parameters = sum(p.numel() for p in tuned.parameters())
    return {
        "algorithm": config.algorithm,
        "pairs": len(kept),
        "too_long": too_long,
        "steps": trainer.state.global_step,
        "loss": _last(history, "loss"),
        "accuracy": _last(history, "rewards/accuracies"),
        "margin": _last(history, "rewards/margins"),
        "parameters": parameters,
        "cost": trained(parameters, sum(lengths) * config.epochs).model_dump(),
    }


def _last(history: Sequence[dict[str, Any]], name: str) -> float | None:
    """The last logged value of a figure; None where the trainer does not log it."""
    found = [line[name] for line in history if name in line]
    return round(float(found[-1]), 4) if found else None
