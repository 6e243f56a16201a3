"""Where the lab's weights lie, and the check that they are whole.

`lab/weights/<world>/<role>/` is an ordinary Hugging Face model folder; `lab/weights/<world>/manifest.json` holds the sha256 of every
file and the figures measured on the world. A folder whose bytes differ from the manifest is refused.
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from exchange.settings import SettingError

WORLDS = ("arithmetic", "alignment", "reasoning", "dial")
MANIFEST = "manifest.json"
_LOADING = threading.RLock()
Load = TypeVar("Load", bound=Callable[..., Any])


def one_at_a_time(load: Load) -> Load:
    """A function that imports transformers and reads a model, as one of all such functions at a time: transformers fails to import on two
    threads at once, and builds models under settings of the whole process, which leave another one's weights without data."""

    @functools.wraps(load)
    def alone(*args: Any, **kwargs: Any) -> Any:
        with _LOADING:
            return load(*args, **kwargs)

    return cast(Load, alone)


def weights_dir(world: str) -> Path:
    """The folder of a world's weights inside the installed package."""
    return Path(__file__).parent / "weights" / world


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST)


def write_manifest(directory: Path, facts: dict[str, Any]) -> None:
    """Write or refresh the manifest: `facts` are merged over what it held, the file sums are taken anew."""
    path = directory / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    manifest.update(facts)
    manifest["files"] = {p.relative_to(directory).as_posix(): file_sha256(p) for p in _files(directory)}
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_manifest(world: str) -> dict[str, Any]:
    path = weights_dir(world) / MANIFEST
    if not path.exists():
        raise ValueError(f"lab world {world!r} has no weights here ({path}); make them with `python -m lab.pretrain {world}`")
    try:
        manifest = dict(json.loads(path.read_text(encoding="utf-8")))
        manifest["files"].items()
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(
            f"{path} is damaged; restore it with `git checkout` or remake the world with `python -m lab.pretrain {world}`"
        ) from None
    return manifest


def model_dir(world: str, role: str) -> Path:
    """The folder of one lab model, every file checked against the manifest.

    Raises ValueError naming the file where one is missing or altered.
    """
    files: dict[str, str] = read_manifest(world)["files"]
    wanted = {name: sha for name, sha in files.items() if name.startswith(role + "/")}
    if not wanted:
        known = sorted({name.split("/")[0] for name in files})
        raise ValueError(f"lab world {world!r} has no model {role!r}; it has {', '.join(known)}")
    for name, sha in wanted.items():
        path = weights_dir(world) / name
        if not path.exists() or file_sha256(path) != sha:
            state = "is missing" if not path.exists() else "does not match its sha256"
            raise ValueError(f"{path} {state}; restore it with `git checkout` or remake the world with `python -m lab.pretrain {world}`")
    return weights_dir(world) / role


def resolve_model(name: str) -> str:
    """A model's name as transformers takes it: `lab:WORLD/ROLE` becomes the checked lab folder, the rest stays. Raises SettingError."""
    if not name.startswith("lab:"):
        return name
    world, _, role = name.removeprefix("lab:").partition("/")
    try:
        return str(model_dir(world, role))
    except ValueError as error:
        raise SettingError(str(error)) from None


def context_of(config: Any, tokenizer: Any) -> int:
    """Most tokens of prompt and answer; of a model without numbered positions (ALiBi, state spaces) what its tokenizer says."""
    text = config.get_text_config()
    return int(text.max_position_embeddings if hasattr(text, "max_position_embeddings") else tokenizer.model_max_length)
