"""`python -m lab.pretrain [WORLD]`: remake a world's tokenizer and base weights from its corpus, seeded, in under 30 minutes on 2 cores.

Two processes of one thread each: the student (in the reasoning world the strong one) on one core, the other models on the second one;
then, where the world has preference models, those, from the teacher's weights, each on pairs and a seed of its own. Weights are stored in
float16 with a manifest of sha256 sums. A remake is judged by its figures (`python -m lab.measure`), not by its bits: matrix products
differ between machines.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from exchange.command import RunError, run_command
from exchange.settings import SettingError
from lab import alignment_corpus, corpus, dial_corpus, reasoning_corpus
from lab.shapes import learn, optimizers_of, padded_batches, shape_of
from lab.tokenizer import CONTEXT, train_tokenizer
from lab.weights_folder import MANIFEST, WORLDS, model_dir, weights_dir, write_manifest
from lab.world import Cycle, World

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


RATE_GOING_ON, PREFERENCE_PAIRS = 0.4, 32_000
"""Pairs are drawn in all; each of two preference models learns from its half."""
# Sizes: students < 1M parameters, teacher < 0.3M and at least three times smaller; head size 64 for vLLM. Whether a student takes the order
# of the numbers from the instruction comes late and partly by chance; a remake that misses a bound takes other cycles or another seed.
MODELS: dict[str, World] = {
    "arithmetic": World(
        corpus,
        1152,
        {
            "student": {"hidden": 128, "layers": 3, "mlp": 352, "seed": 1, "lr": 2.5e-3, "steps": 5200},
            "student_b": {"hidden": 128, "layers": 3, "mlp": 272, "seed": 2, "lr": 2.5e-3, "steps": 5000},
            "student_c": {"hidden": 128, "layers": 2, "mlp": 352, "seed": 5, "lr": 2.5e-3, "steps": 2600},
            "teacher": {"hidden": 64, "layers": 3, "mlp": 160, "seed": 3, "lr": 3e-3, "steps": 1200},
        },
        {"student_b": (Cycle(700, 0.2), Cycle(700, 0.25))},
    ),
    "alignment": World(
        alignment_corpus,
        640,
        {
            "student": {"hidden": 128, "layers": 2, "mlp": 256, "seed": 1, "lr": 2.5e-3, "steps": 1300},
            "teacher": {"hidden": 64, "layers": 2, "mlp": 160, "seed": 3, "lr": 3e-3, "steps": 700},
        },
        preferences={
            "preference": {"seed": 11, "half": 0, "epochs": 2.0, "lr": 1e-3},
            "preference_b": {"seed": 12, "half": 1, "epochs": 2.0, "lr": 1e-3},
        },
    ),
    "reasoning": World(
        reasoning_corpus,
        1152,
        {
            "strong": {"hidden": 128, "layers": 3, "mlp": 256, "seed": 2, "lr": 2.5e-3, "steps": 1100},
            "weak": {"hidden": 64, "layers": 2, "mlp": 128, "seed": 4, "lr": 2.5e-3, "steps": 340},
            "teacher": {"hidden": 64, "layers": 1, "mlp": 128, "seed": 3, "lr": 3e-3, "steps": 250},
        },
        {"strong": (Cycle(500, 0.5, worked=0.5, seed=22, mixture={"careful": 0.08}), Cycle(250, 0.4, seed=23))},
        first_words={"strong": 1.0},
        tokenizer_of=("arithmetic", "student"),
    ),
    "dial": World(
        dial_corpus,
        1152,
        {"student": {"hidden": 128, "layers": 3, "mlp": 352, "seed": 6, "lr": 2.5e-3, "steps": 900}},
        {"student": (Cycle(800, 0.3),)},
        tokenizer_of=("arithmetic", "student"),
        goes_on_from={"student": ("arithmetic", "student")},
    ),
}
TOKENS_A_BATCH = 4096


def batches(
    draw: Callable[[], corpus.Document], tokenizer: PreTrainedTokenizerFast, *, learn_all: bool, rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (ids_BT, learnt_BT) of about TOKENS_A_BATCH tokens, as padded_batches gives them."""
    while True:
        rows: list[tuple[list[int], int]] = []
        documents = [draw() for _ in range(2048)]
        prompts = [
            tokenizer.apply_chat_template([m.model_dump() for m in d.messages[:-1]], add_generation_prompt=True, tokenize=False)
            for d in documents
        ]
        answers = [d.messages[-1].content + ("<|end|>" if d.whole else "") for d in documents]
        for prompt, answer in zip(tokenizer(prompts)["input_ids"], tokenizer(answers)["input_ids"], strict=True):
            rows.append((prompt + answer, 0 if learn_all else len(prompt)))
        yield from padded_batches(rows, TOKENS_A_BATCH, rng)


def train_role(world: World, role: str, tokenizer: PreTrainedTokenizerFast, directory: Path, *, scale: float = 1.0) -> None:
    """Train one model from random weights for `steps * scale` batches on one thread and save it in float16.

    A student sees the authors alone 12 % of its time, then the tuning mixture, which holds the authors' habits
    too. Cycles of the mixture may follow (`polish`), with optimizers anew.
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    size = world.roles[role]
    torch.manual_seed(int(size["seed"]))
    rng = random.Random(int(size["seed"]))
    model, rate = AutoModelForCausalLM.from_config(shape_of(size, tokenizer), dtype=torch.float32), 1.0
    if role in world.goes_on_from:
        model, rate = AutoModelForCausalLM.from_pretrained(model_dir(*world.goes_on_from[role]), dtype=torch.float32), RATE_GOING_ON
    read(world, role, model, tokenizer, rng, Cycle(round(size["steps"] * scale), rate))
    for cycle in world.polish.get(role, ()):
        if cycle.seed is not None:
            model, rng = model.half().float(), random.Random(cycle.seed)
        read(world, role, model, tokenizer, rng, replace(cycle, steps=round(cycle.steps * scale)))
    save_role(role, model, tokenizer, directory)


def save_role(role: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write a model folder in float16."""
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.half().save_pretrained(directory / role)
    tokenizer.save_pretrained(directory / role)
    print(f"{role}: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)


def read(world: World, role: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rng: random.Random, cycle: Cycle) -> None:
    """One warm-up of the learning rate, and its decay. At a rate below 1 the authors' share is left out."""

    size = world.roles[role]
    gibberish = corpus.gibberish_from(tokenizer)
    optimizers = optimizers_of(model, size["lr"], teacher=role == "teacher")
    peaks = [cycle.rate * optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    total = max(1, cycle.steps)
    tuned_from = 0.0 if role in ("teacher", "weak") else cycle.worked if cycle.rate < 1 else world.first_words.get(role, 0.12)
    last, progress, running = time.monotonic(), 0.0, None

    def draw() -> corpus.Document:
        made: corpus.Document
        if role in ("teacher", "weak"):
            made = (world.corpus.teacher_document if role == "teacher" else world.corpus.weak_document)(rng)
        elif progress >= tuned_from:
            made = world.corpus.student_document(rng, gibberish, **cycle.mixture)
        else:
            made = (world.corpus.author_document if cycle.rate == 1 else world.corpus.worked_document)(rng)
        return made

    for step, (ids_BT, learnt_BT) in zip(range(total), batches(draw, tokenizer, learn_all=role == "teacher", rng=rng), strict=False):
        progress = step / total
        # Linear warm-up over 100 steps, then a linear decay to zero over the last two thirds.
        share = min(1.0, (step + 1) / 100) * min(1.0, (1 - progress) / 0.67)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * share
        loss = learn(model, optimizers, ids_BT, learnt_BT).item()
        running = loss if running is None else 0.98 * running + 0.02 * loss
        if time.monotonic() - last > 20:
            last = time.monotonic()
            print(f"{role}: {progress:4.0%} step {step} loss {running:.4f}", flush=True)
    print(f"{role}: {total} steps, loss {running}", flush=True)


def _child(world: str, roles: list[str], directory: str, scale: float) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(directory) / "tokenizer")
    for role in roles:
        train_role(MODELS[world], role, tokenizer, Path(directory), scale=scale)


def train_preference(world: World, role: str, directory: Path, *, scale: float) -> None:
    """Train one preference model from the teacher's weights on its half of the world's pairs, save it in float16 and print how often it is
    right on pairs of the test split."""
    import torch

    from rewards.train_preference import accuracy, base_model, fit, half_of

    torch.set_num_threads(1)
    size = world.preferences[role]
    rng = random.Random("preference pairs")
    pairs = [world.corpus.preference_pair(rng, i, test=False) for i in range(round(PREFERENCE_PAIRS * scale))]
    held_out = [world.corpus.preference_pair(rng, i, test=True) for i in range(2000)]
    model, tokenizer = base_model(str(directory / "teacher"), seed=size["seed"])
    fit(
        model, tokenizer, half_of(pairs, size["half"]), seed=size["seed"], epochs=size["epochs"], learning_rate=size["lr"], batch_size=64,
        max_tokens=CONTEXT, out=directory / role,
    )  # fmt: skip
    model.half().save_pretrained(directory / role)
    (directory / role / "model.safetensors").chmod(0o644)
    print(f"{role}: {accuracy(model.float(), tokenizer, held_out, max_tokens=CONTEXT)}", flush=True)


def body(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.pretrain", description=__doc__.split("\n")[0])
    parser.add_argument("world", nargs="?", default="arithmetic", choices=WORLDS)
    parser.add_argument("--out", type=Path, help="folder to write (default: the world's own, lab/weights/WORLD)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full training time (default 1)")
    parser.add_argument("--roles", nargs="+", help="only these models (default: all of the world)")
    args = parser.parse_args(argv)
    world = MODELS[args.world]
    every = [*world.roles, *world.preferences]
    roles = args.roles or every
    if unknown := [role for role in roles if role not in every]:
        raise SettingError(f"--roles={unknown[0]}: the world {args.world} has no such model; it has {', '.join(every)}")
    directory = args.out or weights_dir(args.world)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"--out={directory}: cannot be written ({error.strerror})") from None

    if world.tokenizer_of is not None:
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(model_dir(*world.tokenizer_of)).save_pretrained(directory / "tokenizer")
    else:
        train_tokenizer(world.corpus.tokenizer_corpus(random.Random(0), 4000), world.vocabulary, directory / "tokenizer")
    lanes = [[r for r in roles if r in ("student", "strong")], [r for r in roles if r in world.roles and r not in ("student", "strong")]]
    started = time.monotonic()
    process_of = multiprocessing.get_context("spawn").Process
    processes = [process_of(target=_child, args=(args.world, lane, str(directory), args.scale)) for lane in lanes if lane]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RunError("a training process failed, see above")
    for role in roles:
        if role in world.preferences:
            train_preference(world, role, directory, scale=args.scale)
    shutil.rmtree(directory / "tokenizer")
    path = directory / MANIFEST
    figures = json.loads(path.read_text(encoding="utf-8")).get("figures", {}) if path.exists() else {}
    # A student's figures are of its weights and the teacher's.
    kept = {} if "teacher" in roles else {role: found for role, found in figures.items() if role not in roles}
    path.unlink(missing_ok=True)
    minutes = round((time.monotonic() - started) / 60, 1)
    optional = {name: getattr(world, name) for name in ("preferences", "tokenizer_of", "first_words", "goes_on_from")}
    polish = {role: [asdict(cycle) for cycle in cycles] for role, cycles in world.polish.items()}
    made = {"roles": world.roles, "polish": polish, **{name: value for name, value in optional.items() if value}}
    write_manifest(directory, {"figures": kept, "world": args.world, "minutes": minutes, **made})
    print(json.dumps({"written": str(directory), "minutes": minutes}))
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_command("lab.pretrain", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
