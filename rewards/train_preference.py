"""Train a reward model on preference pairs, with TRL's `RewardTrainer` (Bradley-Terry loss; Ouyang et al. 2022, eq. 1).

    python -m rewards.train_preference --base Qwen/Qwen2.5-0.5B-Instruct --out models/hh --half 0
    python -m rewards.train_preference --base Qwen/Qwen2.5-0.5B-Instruct --out models/hh_b --half 1 --seed 1
    python -m rewards.train_preference --pairs mine.jsonl --base FOLDER --out models/mine
    python -m rewards.train_preference --scratch --out models/tiny

Pairs are hh_rlhf (trained on helpful-online and helpful-rejection-sampled, measured on the two base sets) or a file of your own, of which
the questions of a tenth are kept for measuring. `--half` takes one of two halves that share no opening question, so that the model that
trains and the one that checks it learn from disjoint pairs. `--scratch` makes a tiny model and its tokenizer of the pairs alone: it shows
the way, and knows no language but theirs. The held-out accuracy, with its interval, stands beside that of "the longer answer wins" in
`preference.json` of the folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exchange.command import run_command
from exchange.settings import SettingError

if TYPE_CHECKING:
    from tasks.hh_rlhf import Pair

FACTS = "preference.json"
SPECIALS = ("<|pad|>", "<|end|>")


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m rewards.train_preference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    start = described.add_mutually_exclusive_group(required=True)
    start.add_argument("--base", help="folder or Hub id of the model to start from; its language-model head is replaced")
    start.add_argument("--scratch", action="store_true", help="start from random weights and a tokenizer made of the pairs")
    described.add_argument("--pairs", default="hh_rlhf", help="hh_rlhf, or a file of JSON lines with chosen and rejected")
    described.add_argument("--out", type=Path, required=True, help="folder to write the reward model to")
    described.add_argument("--half", type=int, choices=(0, 1), help="train on one half of the pairs (default: on all)")
    described.add_argument("--limit", type=int, help="training pairs at most")
    described.add_argument("--seed", type=int, default=0)
    described.add_argument("--epochs", type=float, default=1.0, help="passes over the pairs (1: in more a large model overfits)")
    described.add_argument("--learning-rate", type=float, default=1e-5, help="peak rate (1e-5 for fine-tuning; 1e-3 suits --scratch)")
    described.add_argument("--batch-size", type=int, default=32, help="pairs a step")
    described.add_argument("--max-tokens", type=int, default=512, help="a longer conversation loses its beginning")
    described.add_argument("--hidden", type=int, default=128, help="--scratch: width, a multiple of 64")
    described.add_argument("--layers", type=int, default=2, help="--scratch: layers")
    described.add_argument("--vocabulary", type=int, default=4096, help="--scratch: tokens")
    return described


def load_pairs(name: str) -> tuple[list[Pair], list[Pair]]:
    """(training, held-out) pairs that have a preference and share no opening question. Raises SettingError."""
    from tasks import hh_rlhf
    from tasks.own_pairs import read_pairs
    from tasks.source import stable_share

    if name == "hh_rlhf":
        held_out = [pair for file in hh_rlhf.TEST_FILES for pair in hh_rlhf.load_pairs(file)]
        openings = {pair.messages[0].content for pair in held_out}
        pairs = [pair for file in hh_rlhf.TRAIN_FILES for pair in hh_rlhf.load_pairs(file)]
        train = [pair for pair in pairs if pair.messages[0].content not in openings]
    else:
        pairs = read_pairs(Path(name))
        train = [pair for pair in pairs if stable_share(pair.messages[0].content, 10)]
        held_out = [pair for pair in pairs if not stable_share(pair.messages[0].content, 10)]
    train, held_out = ([pair for pair in some if pair.chosen != pair.rejected] for some in (train, held_out))
    if not train or not held_out:
        raise SettingError(f"--pairs={name}: {len(train)} training and {len(held_out)} held-out pairs with a preference; need some of both")
    return train, held_out


def half_of(pairs: Sequence[Pair], half: int | None) -> list[Pair]:
    """One half by the opening question; all for None."""
    from tasks.source import stable_share

    return [pair for pair in pairs if half is None or stable_share("half" + pair.messages[0].content, 2) == half]


def scratch_model(pairs: Sequence[Pair], *, hidden: int, layers: int, vocabulary: int) -> tuple[Any, Any]:
    """(model, tokenizer) of random weights: a small Llama, and byte-level BPE learnt from the pairs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False)
    texts = (text for pair in pairs for text in (*(message.content for message in pair.messages), pair.chosen, pair.rejected))
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=SPECIALS[0], eos_token=SPECIALS[1])
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64, head_dim=64, max_position_embeddings=2048, num_labels=1,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    return LlamaForSequenceClassification(config), tokenizer


def base_model(base: str, *, seed: int) -> tuple[Any, Any]:
    """(model, tokenizer) of a pretrained model with a fresh head of one label. Raises SettingError."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
    from transformers.utils import logging
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    from lab.weights_folder import resolve_model

    logging.disable_progress_bar()
    set_seed(seed)
    path = resolve_model(base)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        with suppress_seqcls_warning():
            model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=torch.float32)
    except Exception as error:  # tokenizers and safetensors raise plain Exceptions of their own for a damaged file
        raise SettingError(f"--base={base}: cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def fit(
    model: Any, tokenizer: Any, pairs: Sequence[Pair], *, seed: int, epochs: float, learning_rate: float, batch_size: int,
    max_tokens: int, out: Path,
) -> None:  # fmt: skip
    """Train in place with TRL's RewardTrainer and write the folder. `out` also takes the trainer's own files, which are removed."""
    import shutil
    import warnings

    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback
    from transformers.utils import logging
    from trl import RewardConfig, RewardTrainer

    from rewards.preference_model import conversation_ids

    logging.disable_progress_bar()
    disable_progress_bars()
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    rows = [
        {
            "chosen_ids": conversation_ids(tokenizer, pair.messages, pair.chosen, max_tokens),
            "rejected_ids": conversation_ids(tokenizer, pair.messages, pair.rejected, max_tokens),
        }
        for pair in pairs
    ]
    on_gpu = torch.cuda.is_available()
    work = out / "trainer"
    args = RewardConfig(
        output_dir=str(work), seed=seed, num_train_epochs=epochs, learning_rate=learning_rate, lr_scheduler_type="linear",
        warmup_steps=20, per_device_train_batch_size=batch_size, max_length=None, center_rewards_coefficient=0.01, use_cpu=not on_gpu,
        bf16=on_gpu, activation_checkpointing=False, save_strategy="no", report_to=[], logging_steps=20, disable_tqdm=True,
    )  # fmt: skip
    trainer = RewardTrainer(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    for line in trainer.state.log_history[:: max(1, len(trainer.state.log_history) // 10)]:
        if "loss" in line:
            print(f"epoch {line['epoch']:.2f}: loss {line['loss']:.3f}, right on its own batch {line['accuracy']:.0%}", flush=True)
    shutil.rmtree(work, ignore_errors=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for weights in out.glob("*.safetensors"):
        weights.chmod(0o644)


def accuracy(model: Any, tokenizer: Any, pairs: Sequence[Pair], *, max_tokens: int, batch_size: int = 64) -> dict[str, Any]:
    """How often the preferred answer gets the higher reward, by family and in all, with 95 % Wilson intervals; ties count a half."""
    from scipy.stats import binomtest

    from rewards.preference_model import batches, conversation_ids, rewards_of

    model.eval()
    ids = [conversation_ids(tokenizer, p.messages, text, max_tokens) for p in pairs for text in (p.chosen, p.rejected)]
    found = [0.0] * len(ids)
    for batch in batches([len(row) for row in ids], batch_size):
        for i, reward in zip(batch, rewards_of(model, tokenizer, [ids[i] for i in batch]), strict=True):
            found[i] = reward
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(found[::2], found[1::2], strict=True)]
    longer = [1.0 if len(p.chosen) > len(p.rejected) else 0.5 if len(p.chosen) == len(p.rejected) else 0.0 for p in pairs]

    def summed(chosen: Sequence[int]) -> dict[str, Any]:
        right, n = sum(wins[i] for i in chosen), len(chosen)
        low, high = binomtest(round(right), n).proportion_ci(method="wilson")
        by_length = sum(longer[i] for i in chosen) / n
        return {
            "accuracy": round(right / n, 4), "low": round(float(low), 4), "high": round(float(high), 4), "n": n,
            "longer_wins": round(by_length, 4),
        }  # fmt: skip

    families = sorted({pair.family for pair in pairs})
    by_family = {name: summed([i for i, pair in enumerate(pairs) if pair.family == name]) for name in families}
    return {"all": summed(range(len(pairs))), **(by_family if len(families) > 1 else {})}


def run(args: argparse.Namespace) -> int:
    import os

    for name in ("epochs", "learning_rate", "batch_size", "max_tokens", "layers", "limit", "vocabulary"):
        if (given := getattr(args, name)) is not None and given <= 0:
            raise SettingError(f"--{name.replace('_', '-')}={given}: must be above 0")
    if args.hidden % 64 or args.hidden <= 0:
        raise SettingError(f"--hidden={args.hidden}: must be a multiple of 64, the width of a head")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise SettingError(f"--out={args.out}: exists and is not an empty folder; name a new one")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    train, held_out = load_pairs(args.pairs)
    mine = half_of(train, args.half)[: args.limit]
    if not mine:
        raise SettingError(
            f"--half={args.half}: none of the {len(train)} training pairs of {args.pairs} falls into it (halves go by opening question); "
            "give more questions, or train on all"
        )
    train = mine
    from transformers import set_seed

    set_seed(args.seed)
    if args.scratch:
        model, tokenizer = scratch_model(train, hidden=args.hidden, layers=args.layers, vocabulary=args.vocabulary)
    else:
        model, tokenizer = base_model(args.base, seed=args.seed)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters:,} parameters, {len(train):,} training pairs, {len(held_out):,} held out", flush=True)
    started = time.monotonic()
    fit(
        model, tokenizer, train, seed=args.seed, epochs=args.epochs, learning_rate=args.learning_rate, batch_size=args.batch_size,
        max_tokens=args.max_tokens, out=args.out,
    )  # fmt: skip
    facts = {
        "base": args.base,
        "pairs": args.pairs,
        "half": args.half,
        "seed": args.seed,
        "parameters": parameters,
        "training_pairs": len(train),
        "epochs": args.epochs,
        "learning_rate": args.learning_rate,
        "max_tokens": args.max_tokens,
        "wall_s": round(time.monotonic() - started, 1),
        "held_out": accuracy(model, tokenizer, held_out, max_tokens=args.max_tokens),
    }
    (args.out / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    for name, found in facts["held_out"].items():
        print(
            f"{name}: {found['accuracy']:.1%} right ({found['low']:.1%} .. {found['high']:.1%}) on {found['n']:,} held-out pairs; "
            f"the longer answer is preferred in {found['longer_wins']:.1%}"
        )
    print(f"reward model: {args.out}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return run_command("rewards.train_preference", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
