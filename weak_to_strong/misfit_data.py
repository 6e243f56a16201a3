"""What `weak_to_strong.misfit` measures on: arrays of a file, or texts whose features a model gives."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exchange.settings import SettingError
from tasks.source import read_lines
from weak_to_strong.divergence import Array, Divergence, as_numbers, as_outputs


@dataclass(frozen=True)
class Rows:
    """One weak teacher's labels on N inputs: either the student's features (N, D), on which a head is fitted, or its outputs (N, K)."""

    name: str
    weak: Array
    features: Array | None = None
    student: Array | None = None
    truth: Array | None = None
    weak_error: float | None = None
    """The teacher's error on a hold-out of its own, where that is all that is known of the truth."""


def read_arrays(file: str, loss: Divergence) -> Rows:
    """The arrays of an .npz file: weak, features or student, truth?, weak_error?. Raises SettingError naming file and array."""
    try:
        with np.load(file, allow_pickle=False) as loaded:
            held: dict[str, NDArray[np.generic]] = {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not an .npz file of plain arrays"
        raise SettingError(f"arrays={file!r}: cannot be read ({reason})") from None
    except TypeError:  # np.load gives a bare array for an .npy file
        raise SettingError(f"arrays={file!r}: not an .npz file; save it with np.savez(file, features=..., weak=..., truth=...)") from None
    return check_rows(Path(file).stem, held, loss, file)


def check_rows(name: str, held: dict[str, NDArray[np.generic]], loss: Divergence, where: str) -> Rows:
    """Arrays by name as Rows. Raises SettingError where they are missing, do not belong together, or hold one class alone."""
    known = ("features", "student", "weak", "truth", "weak_error")
    if unknown := [key for key in held if key not in known]:
        raise SettingError(f"{where}: holds an array {unknown[0]!r}; known ones are {', '.join(known)}")
    if "weak" not in held:
        raise SettingError(f"{where}: has no array 'weak' (the weak model's labels)")
    if ("features" in held) == ("student" in held):
        raise SettingError(f"{where}: needs one of the arrays 'features' (a head is fitted) and 'student' (its outputs as they are)")
    counts = {key: len(held[key]) for key in known[:4] if key in held and held[key].ndim}
    if len(set(counts.values())) > 1:
        raise SettingError(f"{where}: rows do not match: {', '.join(f'{key} has {count}' for key, count in counts.items())}")
    outputs = {
        key: as_outputs(held[key], f"{where}: {key}", probabilities=loss.of_probabilities)
        for key in ("student", "weak", "truth")
        if key in held
    }
    if len(shapes := {key: value.shape[1] for key, value in outputs.items()}) and len(set(shapes.values())) > 1:
        raise SettingError(f"{where}: columns do not match: {', '.join(f'{key} has {count}' for key, count in shapes.items())}")
    for key in ("weak", "truth"):
        if key in outputs and np.ptp(outputs[key], axis=0).max() == 0:
            raise SettingError(
                f"{where}: {key} is the same in all {len(outputs[key])} rows (one class only), so there is nothing to imitate or to miss"
            )
    features = None
    if "features" in held:
        features = as_numbers(held["features"], f"{where}: features")
        if features.ndim != 2:
            raise SettingError(f"{where}: features has shape {features.shape}; expected (N, D)")
    weak_error = held.get("weak_error")
    if weak_error is not None and (weak_error.size != 1 or weak_error.dtype.kind not in "iuf"):
        raise SettingError(f"{where}: weak_error must be one number")
    return Rows(
        name,
        outputs["weak"],
        features,
        outputs.get("student"),
        outputs.get("truth"),
        None if weak_error is None else float(weak_error.reshape(())),
    )


def read_texts(file: str) -> tuple[list[str], dict[str, NDArray[np.generic]]]:
    """(texts, label arrays) of JSON lines {"text", "weak", "truth"?}; labels are numbers or lists of them.

    Raises SettingError naming the line.
    """
    texts: list[str] = []
    labels: dict[str, list[object]] = {"weak": [], "truth": []}
    for number, row in read_lines(Path(file)):
        where = f"data={file}:{number}"
        if not isinstance(row.get("text"), str) or not row["text"]:
            raise SettingError(f"{where}: field 'text' is missing or empty")
        texts.append(row["text"])
        for key, into in labels.items():
            if key in row:
                into.append(row[key])
        if len(labels["weak"]) != len(texts):
            raise SettingError(f"{where}: field 'weak' is missing")
        if labels["truth"] and len(labels["truth"]) != len(texts):
            raise SettingError(f"{where}: field 'truth' stands in some rows and not in all")
    if not texts:
        raise SettingError(f"data={file}: holds no rows")
    try:
        return texts, {key: np.asarray(values, dtype=float) for key, values in labels.items() if values}
    except (TypeError, ValueError):
        raise SettingError(f"data={file}: 'weak' and 'truth' must be numbers, or lists of equally many") from None


def text_features(
    texts: list[str], model: str, batch_size: int, kept: Path | None, advance: Callable[[int], None] = lambda _: None
) -> Array:
    """(N, D) last-token states; where a file is given they are kept there and read again by a later run on the same model and texts."""
    from lab.weights_folder import resolve_model
    from student_clients.embedded import model_fingerprint
    from weak_to_strong.features import last_token_states, load_backbone

    key = hashlib.sha256("\0".join([model_fingerprint(resolve_model(model)), *texts]).encode()).hexdigest()
    if kept is not None and kept.exists():
        with np.load(kept, allow_pickle=False) as held:
            if str(held["key"]) == key:
                return np.asarray(held["features"])
    backbone, tokenizer = load_backbone(model)
    features = last_token_states(backbone, tokenizer, texts, batch_size=batch_size, advance=advance)
    if kept is not None:
        temporary = kept.with_name("features.tmp.npz")
        np.savez(temporary, features=features, key=np.asarray(key))
        temporary.replace(kept)
    return features
