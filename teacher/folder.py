"""The folder format of a trained teacher: weights, tokenizer, template and a manifest with the sum of all that decides its words."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exchange.compose import template_version
from exchange.protocols import InstructionPolicy
from exchange.settings import SettingError
from lab.weights_folder import file_sha256
from teacher.policy import TransformersPolicy, end_ids, load_model
from teacher.prompt import TeacherPrompt

MANIFEST = "teacher.json"


@dataclass(frozen=True)
class LoadedTeacher:
    """A trained teacher, ready to write."""

    id: str
    sha256: str
    task: str
    policy: InstructionPolicy
    manifest: dict[str, Any]
    folder: Path | None = None
    """Where it was read from."""
    temperature: float = 0.0
    """At which its instructions are drawn; 0 = greedy."""

    @property
    def max_instruction_tokens(self) -> int:
        return int(self.manifest["max_instruction_tokens"])


def teacher_sha256(folder: Path) -> str:
    """One sum over every file of the folder but its manifest and its card: all others decide a teacher's words."""
    parts = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(MANIFEST) and p.name != "README.md"]
    return hashlib.sha256("".join(f"{p.name} {file_sha256(p)}\n" for p in parts).encode()).hexdigest()


def save_teacher(
    folder: Path, model: Any, tokenizer: Any, prompt: TeacherPrompt, facts: dict[str, Any], *, silence_bias: float = 0.0
) -> dict[str, Any]:
    """Write a teacher folder; the manifest comes last, so a folder without one is not a teacher. Returns the manifest.

    `silence_bias` counts in the sum: it goes into the generation config, where `transformers` reads it too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    model.save_pretrained(folder)
    generation = copy.deepcopy(model.generation_config)
    generation.sequence_bias = [[[i], silence_bias] for i in sorted(end_ids(model, tokenizer))] if silence_bias else None
    generation.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)  # save_pretrained leaves them 0600, which a server under another user cannot read
    (folder / "template.txt").write_text(prompt.template + "\n", encoding="utf-8")
    sha256 = teacher_sha256(folder)
    manifest = {
        **facts,
        "blind": prompt.blind,
        "variant": "three_step" if prompt.drafts else "two_step",
        "teacher_template": prompt.version,
        "advice_template": template_version(),
        "silence_bias": silence_bias,
        "sha256": sha256,
    }
    temporary = folder / (MANIFEST + ".tmp")
    temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(folder / MANIFEST)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a teacher folder. Raises SettingError where there is none or it is damaged."""
    if not (folder / MANIFEST).is_file():
        raise SettingError(f"{folder}: not a teacher (no {MANIFEST}); give a run directory's teacher/ folder")
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        missing = {"id", "sha256", "task", "blind", "max_instruction_tokens"} - set(manifest)
    except (ValueError, TypeError):
        raise SettingError(f"{folder / MANIFEST}: not a JSON object; the teacher is damaged") from None
    if missing:
        raise SettingError(f"{folder / MANIFEST}: has no {', '.join(sorted(missing))}; the teacher is damaged")
    return manifest


def end_biases(folder: Path, temperature: float = 0.0) -> dict[int, float]:
    """The bias of each end token of a teacher folder, by token id. Empty where it has none, and at a temperature: who draws wants to see
    what other words are worth, and the bias is a threshold of decisions. Raises SettingError."""
    path = folder / "generation_config.json"
    try:
        biased = json.loads(path.read_text(encoding="utf-8")).get("sequence_bias") if path.is_file() else None
        biases = {int(token): float(bias) for (token,), bias in biased or ()}
    except (ValueError, TypeError, AttributeError):
        raise SettingError(f"{path}: its sequence_bias is none that a teacher is saved with; the teacher is damaged") from None
    return {} if temperature else biases


def _check_weights(folder: Path, model: Any) -> None:
    """Raises SettingError for weights that would write nonsense: transformers fills in at random what a file lacks, and a training that
    diverged leaves numbers that are none."""
    import torch
    from safetensors import safe_open

    files = list(folder.glob("*.safetensors"))
    if not files:
        raise SettingError(f"{folder}: holds no *.safetensors; other formats of weights can run code and are not loaded")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, framework="pt") as weights:
            shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118 -- no mapping
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    for name, parameter in model.named_parameters():
        if name not in tied and shapes.get(name, tuple(parameter.shape)) != tuple(parameter.shape):
            raise SettingError(f"{folder}: {name} has the shape {shapes[name]} in the file and {tuple(parameter.shape)} in the config")
        if name not in shapes and name not in tied:
            raise SettingError(f"{folder}: the weights lack {name}")
        if not torch.isfinite(parameter).all():
            raise SettingError(f"{folder}: {name} holds numbers that are not finite; the training diverged")


def named_at(manifest: dict[str, Any], temperature: float) -> tuple[str, str]:
    """(id, sha256) of a teacher at a temperature: one whose words are drawn says something else than the greedy one of the same files."""
    if not temperature:
        return manifest["id"], manifest["sha256"]
    return f"{manifest['id']}-t{temperature:g}", hashlib.sha256(f"{manifest['sha256']} drawn at {temperature:g}".encode()).hexdigest()


def load_teacher(folder: Path, *, batch_size: int = 128, threads: int = 1, temperature: float = 0.0) -> LoadedTeacher:
    """A teacher folder, its sum checked. Raises SettingError where the folder is no teacher or its files were altered."""
    manifest = read_manifest(folder)
    if teacher_sha256(folder) != manifest["sha256"]:
        raise SettingError(f"{folder}: the files do not match the manifest's sha256; the teacher was altered or is incomplete")
    model, tokenizer = load_model(str(folder))
    _check_weights(folder, model)
    name, sha256 = named_at(manifest, temperature)
    prompt = TeacherPrompt((folder / "template.txt").read_text(encoding="utf-8").removesuffix("\n"), manifest["blind"])
    policy = TransformersPolicy(
        model,
        tokenizer,
        prompt,
        max_instruction_tokens=manifest["max_instruction_tokens"],
        temperature=temperature,
        silence_bias=max(end_biases(folder, temperature).values(), default=0.0),
        batch_size=batch_size,
        threads=threads,
        sha256=sha256,
    )
    return LoadedTeacher(name, sha256, manifest["task"], policy, manifest, folder, temperature)
