"""Warm start: best-of-N instructions by the student's own outcome, then supervised fine-tuning on them.

Every peer that works starts RL from a teacher that sometimes hits (DSP, M-Pilot, Promptist, RLT); from scratch a rare right instruction
may never be sampled. For each question N instructions are sampled, the student answers each, and the distinct ones with the highest
value that were right are kept, at most KEPT a question, so that easy questions do not drown the rest.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

from exchange.protocols import Reward, SamplingParams, StudentClient
from exchange.records import Episode, Example
from rewards.episode import correct, run_episode
from teacher.config import WarmStartConfig
from teacher.policy import TransformersPolicy

KEPT = 2


async def sample_episodes(
    policy: TransformersPolicy,
    examples: list[Example],
    samples: int,
    *,
    student: StudentClient,
    params: SamplingParams,
    reward: Reward,
) -> list[Episode]:
    """`samples` sampled instructions a question, each answered and scored; in order of the questions."""
    repeated = [example for example in examples for _ in range(samples)]
    instructions = await policy.instruct([example.public() for example in repeated])
    return await asyncio.gather(
        *(
            run_episode(example, instruction, arm="warm_start", student=student, params=params, reward=reward)
            for example, instruction in zip(repeated, instructions, strict=True)
        )
    )


def keep_best(episodes: list[Episode], rng: random.Random) -> list[tuple[str, str]]:
    """(example id, instruction) of the right answers of highest value, distinct, at most KEPT a question."""
    by_example: dict[str, dict[str, float]] = defaultdict(dict)
    for episode in episodes:
        score = episode.scores[0] if episode.scores else None
        if correct(episode) == 1.0 and score is not None and score.value is not None and "ill_formed" not in score.parts:
            by_example[episode.example_id][episode.instruction.text] = score.value
    kept: list[tuple[str, str]] = []
    for example_id, texts in by_example.items():
        ranked = sorted(texts, key=lambda text: (-texts[text], rng.random()))
        best = [text for text in ranked if texts[text] == texts[ranked[0]]]
        kept += [(example_id, text) for text in best[:KEPT]]
    return kept


def fine_tune(model: Any, tokenizer: Any, rows: list[dict[str, Any]], config: WarmStartConfig, *, seed: int, work: Path) -> None:
    """Supervised fine-tuning of `model`, in place, on {"prompt": [...], "completion": [...]} rows; loss on the completion alone."""
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    on_gpu = torch.cuda.is_available()
    args = SFTConfig(
        output_dir=str(work),
        learning_rate=config.learning_rate,
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
    trainer = SFTTrainer(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
