"""GSM8K: grade-school word problems (Cobbe et al. 2021, openai/grade-school-math), from a local folder or the Hub.

One row:

    {"question": "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. ...",
     "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\\n... = <<48+24=72>>72 clips altogether ...\\n#### 72"}

The gold is the number on the `####` line, never the last `<<...>>` annotation (470 rows differ). Validation questions are every tenth
of the training file.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exchange.records import Example
from exchange.settings import SettingError
from tasks.gsm8k_answer import gold_number

HUB_ID = "openai/gsm8k"
HUB_REVISION = "e53f048856ff4f594e959d75785d2c2d37b678ee"
STATIC_INSTRUCTION = (
    "Think step by step: write down what is known, compute one step a line, and check the units. "
    "End with a line `#### ` followed by the final number only."
)


def data_folder(path: str | None) -> Path | None:
    """The folder to read: the one configured, else `gsm8k/` under WST_DATA_DIR (else a folder shared/data beside the checkout)."""
    if path is not None:
        if not Path(path).is_dir():
            raise SettingError(f"task.path={path!r}: no such folder; it should hold train.jsonl(.gz) and test.jsonl(.gz)")
        return Path(path)
    root = Path(os.environ.get("WST_DATA_DIR", Path(__file__).parents[2] / "shared" / "data"))
    return root / "gsm8k" if (root / "gsm8k").is_dir() else None


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a JSON-lines file, gzip where it is named so. Raises SettingError naming file and line."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="\n") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise SettingError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
                yield number, row
        except json.JSONDecodeError as error:
            raise SettingError(f"{path}:{number}: not JSON ({error.msg})") from None
        except UnicodeDecodeError as error:
            raise SettingError(f"{path}: not UTF-8 text ({error.reason})") from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise SettingError(f"{path}: damaged gzip file ({error})") from None


def _rows(source: str, path: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of the training or test file."""
    folder = data_folder(path)
    if folder is not None:
        for name in (f"{source}.jsonl.gz", f"{source}.jsonl"):
            if (folder / name).is_file():
                for number, row in read_lines(folder / name):
                    yield f"{folder / name}:{number}", row
                return
        raise SettingError(f"{folder}: holds neither {source}.jsonl.gz nor {source}.jsonl")
    from datasets import load_dataset

    try:
        table = load_dataset(HUB_ID, "main", split=source, revision=HUB_REVISION)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SettingError(
            f"task gsm8k: no local folder, and the Hub dataset {HUB_ID} cannot be had ({reason}); "
            "set task.path or WST_DATA_DIR to a folder with train.jsonl and test.jsonl"
        ) from None
    for number, row in enumerate(table):
        yield f"{HUB_ID}/{source} row {number}", row


def load(split: str, *, limit: int | None = None, path: str | None = None) -> list[Example]:
    """The questions of a split in file order, at most `limit`. Raises SettingError naming file and line for a faulty row."""
    examples: list[Example] = []
    for number, (where, row) in enumerate(_rows("test" if split == "test" else "train", path)):
        if split != "test" and (number % 10 == 9) != (split == "validation"):
            continue
        if limit is not None and len(examples) >= limit:
            break
        for field in ("question", "answer"):
            if not isinstance(row.get(field), str):
                raise SettingError(f"{where}: field {field!r} is missing or not text")
        if gold_number(row["answer"]) is None:
            raise SettingError(f"{where}: the answer has no number after ####")
        examples.append(
            Example(
                id=f"gsm8k-{'test' if split == 'test' else 'train'}-{number}",
                task="gsm8k",
                split=split,
                query=row["question"],
                gold=row["answer"].rpartition("####")[2].strip(),
                reference=row["answer"],
            )
        )
    if not examples:
        raise SettingError(f"task gsm8k: the {split} split is empty")
    return examples
