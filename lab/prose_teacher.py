"""How lab-m's teacher learns where there is nothing but torch and transformers: best-of-N warm start, then GRPO.

The project's own trainer (`teacher.train`) needs TRL; this is its lab recipe in plain torch: the same warm start (silence where raw is
right, else instructions in waves until one works, fine-tuned), and one Dr. GRPO update a batch without KL (arXiv 2503.20783: advantages are
rewards minus the group's mean, the loss is divided by a constant), where on-policy the clipped ratio is 1. A killed run goes on from its
last checkpoint.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from lab.prose_corpus import compose
from lab.prose_models import COMPLETE, chat, load_folder, save_atomically, save_folder, write
from lab.prose_world import Row

HIDDEN = "(hidden)"
"""What a blind teacher sees in place of every query, as in `teacher.prompt`."""
INSTRUCTION_TOKENS = 40
WAVE = 4


@dataclass(frozen=True)
class Learning:
    """A teacher's training."""

    questions: int
    """Of the warm start."""
    samples: int
    """Instructions a question at most."""
    epochs: int
    tuning_lr: float
    steps: int
    batch: int
    group: int
    lr: float
    every: int
    """Steps between validations, and between checkpoints."""
    validation: int
    """Questions that choose the best step."""


def number_in(text: str) -> Fraction | None:
    """The number behind the last `####`; None where there is none."""
    found = re.findall(r"####\s*\$?(-?\d[\d,]*(?:\.\d+)?)", text)
    return Fraction(found[-1].replace(",", "")) if found else None


def right(text: str, gold: str) -> bool:
    return number_in(text) == Fraction(gold)


@dataclass(frozen=True)
class Student:
    """The frozen student."""

    model: Any
    tokenizer: Any
    batch: int

    def answers(self, queries: Sequence[str], instructions: Sequence[str], *, most: int = 24) -> list[str]:
        """Greedy answers of `most` tokens at most."""
        turns = [compose(query, text) for query, text in zip(queries, instructions, strict=True)]
        return write(self.model, self.tokenizer, turns, most=most, batch=self.batch)[0]

    def grades(self, rows: Sequence[Row], instructions: Sequence[str]) -> list[bool]:
        texts = self.answers([row.query for row in rows], instructions)
        return [right(text, row.gold) for text, row in zip(texts, rows, strict=True)]


def instruct(
    model: Any, student: Student, queries: Sequence[str], *, blind: bool, temperature: float = 0.0
) -> tuple[list[str], list[list[int]]]:
    """(instructions, their ids)."""
    turns = [HIDDEN] * len(queries) if blind else list(queries)
    return write(model, student.tokenizer, turns, most=INSTRUCTION_TOKENS, batch=2 * student.batch, temperature=temperature)


def best_of_n(
    model: Any, student: Student, rows: Sequence[Row], plan: Learning, *, blind: bool, rng: random.Random
) -> list[tuple[str, str]]:
    """(query, instruction) that made the student right, two a question at most; silence where it is right raw."""
    raw = student.grades(rows, [""] * len(rows))
    kept = [(row.query, "") for row, good in zip(rows, raw, strict=True) if good]
    left = [row for row, good in zip(rows, raw, strict=True) if not good]
    for _ in range(0, plan.samples, WAVE):
        asked = [row for row in left for _ in range(WAVE)]
        texts, _ = instruct(model, student, [row.query for row in asked], blind=blind, temperature=1.0)
        worked: dict[str, list[str]] = {}
        for row, text, good in zip(asked, texts, student.grades(asked, texts), strict=True):
            if good and text:
                worked.setdefault(row.query, []).append(text)
        kept += [(query, text) for query, found in worked.items() for text in rng.sample(found, min(2, len(found)))]
        left = [row for row in left if row.query not in worked]
        if not left:
            break
    return kept


def token_losses(model: Any, tokenizer: Any, turns: Sequence[str], answers: Sequence[list[int]]) -> tuple[Any, Any]:
    """(losses_BT, learnt_BT): negative log-probability of each token of the answers behind the turns; learnt_BT is their mask."""
    import torch

    rows = [prompt + answer for prompt, answer in zip(tokenizer([chat(turn) for turn in turns])["input_ids"], answers, strict=True)]
    width = max(map(len, rows))
    ids_BT = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows], device=model.device)
    learnt_BT = torch.zeros(len(rows), width - 1, dtype=torch.bool, device=model.device)
    for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        learnt_BT[i, len(row) - len(answer) - 1 : len(row) - 1] = True
    logits_BTV = model(input_ids=ids_BT).logits[:, :-1].float()
    losses_BT = torch.nn.functional.cross_entropy(logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none")
    return losses_BT, learnt_BT


def fine_tune(model: Any, student: Student, pairs: Sequence[tuple[str, str]], plan: Learning, *, blind: bool, rng: random.Random) -> None:
    """Supervised fine-tuning on (query, instruction), batches of 32, linear decay."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.tuning_lr, weight_decay=0.5)
    order = [i for _ in range(plan.epochs) for i in rng.sample(range(len(pairs)), len(pairs))]
    starts = range(0, len(order), 32)
    for k, start in enumerate(starts):
        optimizer.param_groups[0]["lr"] = plan.tuning_lr * min(1.0, (k + 1) / 5) * (1 - k / len(starts))
        batch = [pairs[i] for i in order[start : start + 32]]
        ids = student.tokenizer([f"{text}<|end|>" for _, text in batch])["input_ids"]
        losses_BT, learnt_BT = token_losses(model, student.tokenizer, [HIDDEN if blind else query for query, _ in batch], ids)
        losses_BT[learnt_BT].mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def grpo_step(model: Any, optimizer: Any, student: Student, rows: Sequence[Row], group: int, *, blind: bool) -> float:
    """One update on a group of instructions for each row; the share that made the student right."""
    import torch

    asked = [row for row in rows for _ in range(group)]
    texts, ids = instruct(model, student, [row.query for row in asked], blind=blind, temperature=1.0)
    rewards_QG = torch.tensor(student.grades(asked, texts), dtype=torch.float32, device=model.device).view(len(rows), group)
    advantages_B1 = (rewards_QG - rewards_QG.mean(1, keepdim=True)).view(-1, 1)
    losses_BT, learnt_BT = token_losses(model, student.tokenizer, [HIDDEN if blind else row.query for row in asked], ids)
    ((advantages_B1 * losses_BT * learnt_BT).sum() / (len(asked) * INSTRUCTION_TOKENS)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(rewards_QG.mean())


def train(
    base: Path,
    folder: Path,
    student: Student,
    train_rows: Sequence[Row],
    validation: Sequence[Row],
    plan: Learning,
    *,
    seed: int,
    blind: bool,
) -> None:
    """Warm start (left in `folder`/sft) and RL; the best validated step is left in `folder`/trained."""
    import torch

    if (folder / "trained" / COMPLETE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    device, say = str(student.model.device), f"{'blind ' if blind else ''}teacher seed {seed}"
    if not (folder / "sft" / COMPLETE).exists():
        torch.manual_seed(seed)
        model, rng = load_folder(base, device), random.Random(seed)
        pairs = best_of_n(model, student, train_rows[: plan.questions], plan, blind=blind, rng=rng)
        fine_tune(model, student, pairs, plan, blind=blind, rng=rng)
        save_folder(model, student.tokenizer, folder / "sft")
        print(f"{say}: warm start on {len(pairs)} instructions", flush=True)
    model, saved = load_folder(folder / "sft", device), folder / "rl.pt"
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.lr, weight_decay=0.0)
    done, best, held = 0, -1.0, None
    if saved.exists():
        state = torch.load(saved, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done, best, held = state["done"], state["best"], state["held"]
    for step in range(done, plan.steps + 1):
        if step % plan.every == 0 or step == plan.steps:
            texts, _ = instruct(model, student, [row.query for row in validation], blind=blind)
            grades = student.grades(validation, texts)
            share = sum(grades) / len(grades)
            if share >= best:  # of equal ones the latest
                best, held = share, {name: tensor.clone() for name, tensor in model.state_dict().items()}
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": step, "best": best, "held": held}
            save_atomically(state, saved)
            print(f"{say}: step {step}/{plan.steps} validation {share:.3f} ({len(validation)} questions)", flush=True)
        if step < plan.steps:
            torch.manual_seed(1_000_003 * (seed + 1) + step)
            optimizer.param_groups[0]["lr"] = plan.lr * min(1.0, (step + 1) / 5)
            rows = random.Random(f"{seed}/{step}").sample(list(train_rows), plan.batch // plan.group)
            grpo_step(model, optimizer, student, rows, plan.group, blind=blind)
    assert held is not None
    model.load_state_dict(held)
    save_folder(model, student.tokenizer, folder / "trained")
