"""The model card of a trained teacher, and its way to the Hugging Face Hub.

The card (`teacher/README.md`) is written at the end of every run. It says what the teacher was trained on and by whom it was taught, and
repeats the evaluation with its intervals, so that whoever finds the folder knows what may be claimed of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from evaluation.report import headline
from evaluation.table import EvalSummary
from exchange.command import RunError
from exchange.settings import SettingError
from teacher.config import TrainConfig

CARD = "README.md"


def check_login(config: TrainConfig) -> None:
    """Raises SettingError where the run is to be pushed and nobody is logged in: found out before anything was spent."""
    if config.run.push_to_hub is None:
        return
    from huggingface_hub import HfApi

    try:
        HfApi().whoami()
    except Exception as error:  # an OSError of several libraries, by what is wrong: no token, a wrong one, no network
        reason = str(error).strip().splitlines()[0]
        raise SettingError(
            f"run.push_to_hub={config.run.push_to_hub!r}: the Hub does not know you ({reason}); set HF_TOKEN or log in with `hf auth login`"
        ) from None


def card(config: TrainConfig, manifest: Mapping[str, Any], summary: EvalSummary, commit: str | None) -> str:
    """The text of the card: a YAML head as the Hub reads it, then Markdown."""
    base = config.teacher.model
    head: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["prompt-teacher", config.algorithm]}
    if not base.startswith(("lab:", "/", ".", "~")):
        head["base_model"] = base
    rows = ["| arm | right | 95 % interval | against raw | help | harm | silent |", "|---|---|---|---|---|---|---|"]
    for name, arm in summary.arms.items():
        pair = summary.vs_raw.get(name)
        against = f"{100 * pair.difference:+.1f} ({100 * pair.low:+.1f} .. {100 * pair.high:+.1f})" if pair else ""
        rates = f"{pair.help_rate:.1%} | {pair.harm_rate:.1%}" if pair else " | "
        rows.append(f"| {name} | {arm.mean:.1%} | {arm.low:.1%} .. {arm.high:.1%} | {against} | {rates} | {arm.silence_rate:.0%} |")
    rows[0] = rows[0].replace("95 %", f"{1 - summary.alpha:.0%}")
    student = manifest["student"]
    chosen = f"; `{manifest['validated_on']}` chose the best step and was measured" if "validated_on" in manifest else ""
    steps = "after its warm start alone" if not manifest["step"] else f"at step {manifest['step']} of {config.max_steps}"
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
            f"# {manifest['id']}",
            "",
            "A prompt teacher: it writes a short instruction for each query, under which a larger frozen student answers better.",
            "",
            headline(summary),
            "",
            f"- base model: `{base}`; {config.algorithm} {steps}, seed {config.seed}, code {commit or 'unknown'}",
            f"- taught by the answers of `{student}`{chosen}; reward: {config.reward.kind}; variant: {config.variant}",
            f"- task: {config.task.name}, {summary.n} held-out questions of the {summary.split} split",
            f"- instructions: at most {manifest['max_instruction_tokens']} tokens, bias towards silence {manifest['silence_bias']:g}; "
            f"prompt in `template.txt`; sha256 `{manifest['sha256']}`",
            "",
            *rows,
            "",
            "Figures hold for this student and task; on others measure first (`python -m teacher.ab PROMPTS.jsonl --teacher DIR`).",
            "Serve it with `python -m server --teacher DIR`.",
            "",
        ]
    )


def write_card(folder: Path, text: str) -> None:
    """Write the card into a teacher folder, whose sum it is no part of. Raises OSError."""
    (folder / CARD).write_text(text, encoding="utf-8")


def push(folder: Path, config: TrainConfig, manifest: Mapping[str, Any]) -> str | None:
    """Upload a teacher folder where the run is to be pushed; the address, None where it is not. Raises RunError where that fails."""
    repo = config.run.push_to_hub
    if repo is None:
        return None
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        made = api.create_repo(repo, private=config.run.hub_private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=f"{manifest['id']} ({manifest['sha256'][:12]})")
    except Exception as error:  # an OSError of several libraries, or a ValueError, by what is wrong
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"the run is finished, and {repo} could not be pushed ({reason}); push by hand: hf upload {repo} {folder}") from None
    return str(made)
