"""`python -m benchmarks.real_shape [--shape qwen2.5-0.5b] [--batch 16] [--group 8]`: a training step at the size of a real teacher.

The teacher has the shape of a model one would use, from its config, with random weights (no download) and the full vocabulary; its prompts
are GSM8K-like questions, its reward a fixed function, so that a step is the teacher's own work. Prints and saves tokens a second, peak
memory, and how a step's time divides between generating and learning. On a GPU where there is one; `--shape tiny` is for trying the
script on a CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.results_file import load_runs, save
from teacher.run_directory import git_commit

NAME = "real_shape"
SHAPES: dict[str, dict[str, int]] = {
    # The numbers of Qwen/Qwen2.5-0.5B-Instruct's and Qwen/Qwen2.5-1.5B-Instruct's config.json.
    "qwen2.5-0.5b": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "qwen2.5-1.5b": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "vocab_size": 4096,
    },
}  # fmt: skip
PROMPT_WORDS = 120
"""Words of a query; GSM8K's questions have 45 on average, the teacher's template adds some more."""
WARM_UP = 2
"""Steps that are not counted: the first ones compile and fill caches."""


def make_teacher(shape: str, folder: Path) -> None:
    """A model folder of that shape with random weights. Its tokenizer is the lab's: ids above its vocabulary occur in answers alone."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from lab.weights_folder import resolve_model

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("lab:arithmetic/teacher"))
    config = Qwen2Config(
        **SHAPES[shape], max_position_embeddings=4096, tie_word_embeddings=True, rope_theta=1e6, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(args: argparse.Namespace, commit: str | None) -> dict[str, Any]:
    import torch

    from evaluation.arms import EvalConfig
    from teacher.algorithms import build_trainer
    from teacher.config import TeacherConfig, TrainConfig, resolve
    from teacher.policy import load_model
    from teacher.run_directory import RunDirectory

    seconds: dict[str, list[float]] = defaultdict(list)

    def timed(owner: Any, method: str, name: str) -> None:
        inner = getattr(owner, method)

        def outer(*a: Any, **k: Any) -> Any:
            started = _now()
            try:
                return inner(*a, **k)
            finally:
                seconds[name].append(_now() - started)

        setattr(owner, method, outer)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_teacher(args.shape, folder / "model")
        config = resolve(
            TrainConfig(
                teacher=TeacherConfig(model=str(folder / "model"), max_instruction_tokens=args.tokens),
                max_steps=WARM_UP + args.steps,
                eval=EvalConfig(every=WARM_UP + args.steps),
                trl={
                    "per_device_train_batch_size": args.micro, "gradient_accumulation_steps": args.batch * args.group // args.micro,
                    "num_generations": args.group, "gradient_checkpointing": args.checkpointing, "save_only_model": True,
                },
            )
        )  # fmt: skip
        model, tokenizer = load_model(str(folder / "model"))
        queries = [" ".join(f"item {i} costs {i + n}" for i in range(PROMPT_WORDS // 4)) for n in range(args.batch * 2)]
        rows = [{"prompt": [{"role": "user", "content": query}], "example_id": query} for query in queries]
        lengths: list[int] = []

        async def reward(*, completion_ids: list[list[int]], **_: Any) -> list[float]:
            lengths.extend(len(ids) for ids in completion_ids)
            return [float(sum(ids) % 2) for ids in completion_ids]

        (folder / "run").mkdir()
        trainer = build_trainer(
            config, RunDirectory(folder / "run"), model, tokenizer, start=folder / "model", rows=rows, reward=reward,
            begin=lambda *_: None, on_step=lambda *_: seconds["step_end"].append(_now()), on_validate=lambda *_: None,
            on_saved=lambda *_: None, stop=bool,
        )  # fmt: skip
        timed(trainer, "_generate", "generate")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    ends = seconds["step_end"]
    steps = [later - earlier for earlier, later in zip(ends[WARM_UP - 1 :], ends[WARM_UP:])]
    batch = args.batch * args.group
    step_s = statistics.median(steps)
    generate_s = statistics.median(seconds["generate"][WARM_UP:])
    return {
        "shape": args.shape,
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "batch": batch,
        "tokens_an_instruction": round(statistics.fmean(lengths), 1),
        "step_s": round(step_s, 3),
        "generate_s": round(generate_s, 3),
        "learn_s": round(step_s - generate_s, 3),
        "instructions_a_second": round(batch / step_s, 2),
        "tokens_a_second_generating": round(batch * statistics.fmean(lengths) / generate_s, 1),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else None,
        "settings": {key: getattr(args, key) for key in ("batch", "group", "micro", "tokens", "steps", "checkpointing")},
        "commit": commit,
    }


def _now() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_shape", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b", help="whose config")
    parser.add_argument("--batch", type=int, default=16, help="questions a step")
    parser.add_argument("--group", type=int, default=8, help="instructions a question")
    parser.add_argument("--micro", type=int, default=8, help="instructions of one forward and backward pass")
    parser.add_argument("--tokens", type=int, default=128, help="longest instruction; random weights nearly always write that many")
    parser.add_argument("--steps", type=int, default=10, help="steps measured")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    commit = git_commit()
    found = measure(args, commit)
    print(json.dumps(found, indent=1))
    if not args.no_save:
        runs = [*load_runs(NAME), found]
        save(NAME, headline={"runs": len(runs)}, runs=runs, commit=commit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
