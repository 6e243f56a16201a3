"""Rows of a data set: from a local folder where there is one, else from the Hub at a pinned revision.

A file is read whole and checked before its first row is used: a broken line, a wrong encoding or a damaged archive is one message that
names file and line, and nothing is half loaded. Files that the project knows are checked by sha256.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from exchange.settings import SettingError


class Text(Protocol):
    """A drawn question."""

    @property
    def text(self) -> str: ...


Drawn = TypeVar("Drawn", bound=Text)
Row = tuple[str, dict[str, Any]]
"""(where it stands: file and line, the row)"""

SHA256 = {
    "gsm8k/train": "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
    "gsm8k/test": "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
    "math/math500_test": "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132",
    "math/train": "86c9ead9427e3a6bf47ab584487f284ee2cafbdcbcb3f3d20c8c3353cff5e679",
    "math/test_without_math500": "709ee0466497e42b15b43c34401660bcb8f6cf989dd68e382c1dde76ebc0c73f",
    "hh-rlhf/helpful-base-test": "41c3a32fe45a7075f7e32b11bd29383f9fe650287354a95568f61295a8e694da",
    "hh-rlhf/helpful-online-test": "b6bd51d77d94c6223e83c29e75b12c1c089504d52797561462017c2c0e575b41",
    "hh-rlhf/helpful-rejection-sampled-test": "90b4e2c68562123177471bad28650bd9f1fb5dccedb9e25779efa0373e3f6b85",
    "hh-rlhf/harmless-base-test": "14d765196c9f18d84f9bb3a78bac608c8f2915110ebcbd74ec95db7b7198b008",
    "reasoning/svamp": "6fe662d6aab49834d3e95be4b84cbb56e4a5099e0a839338a13171a61cbdd1f8",
    "reasoning/strategyqa": "c8169caa6300610e15e632a1fd108698f3fc616c589fc1f9555184c2a420e150",
}
"""Of the unpacked lines. Checked where the file is found under WST_DATA_DIR; a folder that a setting names may hold other rows."""


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face Hub, at one commit."""

    id: str
    revision: str
    split: str
    config: str | None = None
    data_dir: str | None = None


def data_root() -> Path:
    """WST_DATA_DIR, else the folder shared/data beside the checkout; it need not exist."""
    return Path(os.environ.get("WST_DATA_DIR", Path(__file__).parents[2] / "shared" / "data"))


def stable_share(text: str, parts: int) -> int:
    """A number below `parts`, by the text alone: which split a row belongs to, on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % parts


def read_lines(path: Path, sha256: str | None = None) -> list[tuple[int, dict[str, Any]]]:
    """(line number, object) of a JSON-lines file, gzip where it is named so. Raises SettingError naming file and line."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except OSError as error:
        reason = error.strerror or f"damaged gzip file: {error}"
        raise SettingError(f"{path}: cannot be read ({reason})") from None
    except (EOFError, zlib.error) as error:
        raise SettingError(f"{path}: damaged gzip file ({error})") from None
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise SettingError(f"{path}: not the file this task is made for (its sha256 differs); name your own folder with task.path")
    return [(number, row) for number, row in parse_lines(data, str(path))]


def parse_lines(data: bytes, name: str) -> list[tuple[int, dict[str, Any]]]:
    """(line number, object) of JSON lines; empty lines are passed over. Raises SettingError with `name` and the line."""
    rows = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise SettingError(f"{name}:{number}: not UTF-8 text ({error.reason} at byte {error.start})") from None
        except json.JSONDecodeError as error:
            raise SettingError(f"{name}:{number}: not JSON ({error.msg})") from None
        except RecursionError:
            raise SettingError(f"{name}:{number}: not JSON (nested too deep)") from None
        if not isinstance(row, dict):
            raise SettingError(f"{name}:{number}: expected a JSON object, found {type(row).__name__}")
        rows.append((number, row))
    return rows


def find(folder: Path, name: str) -> Path | None:
    """`name`.jsonl.gz or `name`.jsonl in a folder."""
    return next((folder / file for file in (f"{name}.jsonl.gz", f"{name}.jsonl") if (folder / file).is_file()), None)


def load_rows(task: str, folder: str, names: Sequence[str], path: str | None, hub: Sequence[Hub]) -> list[Row]:
    """The rows of the first file there is among `names`: in the folder `path` where that is set, else in `folder` under the data root,
    else from the Hub (all of `hub`, one after another). Raises SettingError with what to do."""
    here = Path(path) if path is not None else data_root() / folder
    wanted = " or ".join(f"{name}.jsonl(.gz)" for name in names)
    if path is not None and not here.is_dir():
        raise SettingError(f"task.path={path!r}: no such folder; it should hold {wanted}")
    for name in names:
        file = find(here, name)
        if file is not None:
            sha256 = SHA256.get(f"{folder}/{name}") if path is None else None
            return [(f"{file}:{number}", row) for number, row in read_lines(file, sha256)]
    if path is not None or (here.is_dir() and not hub):
        raise SettingError(f"{here}: holds neither {' nor '.join(f'{name}.jsonl.gz nor {name}.jsonl' for name in names)}")
    if not hub:
        raise SettingError(f"task {task}: {here} does not exist; set task.path or WST_DATA_DIR to a folder with {wanted}")
    return [row for part in hub for row in _from_hub(task, part, wanted)]


def _from_hub(task: str, hub: Hub, wanted: str) -> list[Row]:
    from datasets import load_dataset

    try:
        table = load_dataset(hub.id, hub.config, data_dir=hub.data_dir, split=hub.split, revision=hub.revision)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SettingError(
            f"task {task}: no local folder, and the Hub dataset {hub.id} cannot be had ({reason}); "
            f"set task.path or WST_DATA_DIR to a folder with {wanted}"
        ) from None
    return [(f"{hub.id}/{hub.split} row {number}", dict(row)) for number, row in enumerate(table)]


def text_of(row: dict[str, Any], field: str, where: str) -> str:
    """A field that must hold text. Raises SettingError naming file and line."""
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise SettingError(f"{where}: field {field!r} is missing or not text")
    return value


def some(examples: list[Any], task: str, split: str, limit: int | None) -> list[Any]:
    """The first `limit`. Raises SettingError where there are none at all."""
    if not examples:
        raise SettingError(f"task {task}: the {split} split is empty")
    return examples[:limit]


def questions_of_split(split: str, draw: Callable[[], Drawn], limit: int) -> Iterator[Drawn]:
    """The first `limit` different questions that `draw` gives for a split. Train and validation share words, so a question belongs to one
    of them by its hash: no two splits share one."""
    seen: set[str] = set()
    while len(seen) < limit:
        question = draw()
        if question.text in seen or (split != "test" and (stable_share(question.text, 10) == 0) != (split == "validation")):
            continue
        seen.add(question.text)
        yield question
