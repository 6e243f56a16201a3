"""Multiple choice in one form: CommonsenseQA (Talmor et al. 2019), LogiQA (Liu et al. 2020), ARC easy and challenge (Clark et al. 2018).

One row of ARC as its authors publish it, and the same as the Hub has it:

    {"id": "Mercury_7175875", "question": {"stem": "An astronomer observes that a planet rotates faster ...",
     "choices": [{"text": "Planetary density will decrease.", "label": "A"}, ...]}, "answerKey": "C"}
    {"id": "Mercury_7175875", "question": "An astronomer ...", "choices": {"text": [...], "label": [...]}, "answerKey": "C"}

and one of LogiQA: {"context": "...", "question": "...", "options": ["...", ...], "label": 1}, counted from 0. `task.subset` names the set.
Its files lie in a folder of that name (`arc_challenge/train.jsonl`, `validation.jsonl`, `test.jsonl`), else it comes from the Hub.
CommonsenseQA publishes its test without answers, so there the public validation file is the test. Where no validation file is
published, or it is the test, every tenth training question validates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exchange.records import Example
from exchange.settings import SettingError
from tasks.source import Hub, Row, data_root, find, load_rows, some, text_of

STATIC_INSTRUCTION = (
    "Consider each option in turn and say in one line what speaks for or against it. Choose the one that fits the question best; "
    "exactly one is right. End with a line `Answer: ` followed by the letter of that option only."
)
FORM = "Finish with a line `Answer: ` followed by the letter of the one best option."
LETTERS = "ABCDEFGHIJ"
HUB: dict[str, tuple[str, str, str | None]] = {
    "commonsense_qa": ("tau/commonsense_qa", "94630fe30dad47192a8546eb75f094926d47e155", None),
    "arc_easy": ("allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453", "ARC-Easy"),
    "arc_challenge": ("allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453", "ARC-Challenge"),
}
SUBSETS = (*HUB, "logiqa")
"""LogiQA has no plain table on the Hub (only a loading script), so it is read from files."""
TEST_FILE = {"commonsense_qa": "validation"}


def as_query(question: str, options: list[str], context: str = "") -> str:
    """The question with its options listed by letter, and the form of answer that is asked for."""
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options))
    return "\n\n".join(part for part in (context.strip(), question.strip(), listed, FORM) if part)


def options_of_row(row: dict[str, Any], where: str) -> tuple[list[str], list[str]]:
    """(labels as the row has them, texts)."""
    question = row.get("question")
    found = (
        question.get("choices")
        if isinstance(question, dict)
        else next((row[k] for k in ("choices", "options", "answers") if k in row), None)
    )
    if isinstance(found, dict):
        found = [{"label": label, "text": text} for label, text in zip(found.get("label", ()), found.get("text", ()))]
    if not isinstance(found, list) or not 2 <= len(found) <= len(LETTERS):
        raise SettingError(f"{where}: expected 2 to {len(LETTERS)} options in 'choices', 'options' or 'answers'")
    labels, texts = [], []
    for i, option in enumerate(found):
        labels.append(str(option.get("label", LETTERS[i])) if isinstance(option, dict) else LETTERS[i])
        texts.append(option.get("text") if isinstance(option, dict) else option)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise SettingError(f"{where}: an option is not text")
    return labels, [str(text).strip() for text in texts]


def example_of(row: dict[str, Any], where: str, *, task: str, split: str, name: str) -> Example:
    """One row of any of the forms. Raises SettingError naming file and line."""
    labels, texts = options_of_row(row, where)
    question = row.get("question")
    stem = (
        text_of(question, "stem", where)
        if isinstance(question, dict)
        else text_of(row, "question" if "question" in row else "query", where)
    )
    key = next((row[field] for field in ("answerKey", "label", "correct_option", "answer", "gold") if field in row), None)
    if isinstance(key, int) and not isinstance(key, bool) and 0 <= key < len(texts):
        gold = key
    elif isinstance(key, str) and key.strip() in labels:
        gold = labels.index(key.strip())
    elif isinstance(key, str) and key.strip().upper() in LETTERS[: len(texts)] and key.strip():
        gold = LETTERS.index(key.strip().upper())
    else:
        raise SettingError(f"{where}: the answer {key!r} names none of the options {', '.join(labels)}")
    context = str(row.get("context", ""))
    return Example(id=f"{task}-{name}", task=task, split=split, query=as_query(stem, texts, context), gold=LETTERS[gold])


def load(split: str, *, limit: int | None = None, path: str | None = None, subset: str | None = None) -> list[Example]:
    """The questions of a split in file order, at most `limit`. Raises SettingError naming file and line for a faulty row."""
    subset = subset or "commonsense_qa"
    source, tenth = _file(split, subset, path)
    examples: list[Example] = []
    seen: set[str] = set()
    for number, (where, row) in enumerate(_rows(subset, source, path)):
        name = str(row.get("id", f"{source}-{number}"))
        if name in seen:
            raise SettingError(f"{where}: id {name!r} occurs twice")
        seen.add(name)
        example = example_of(row, where, task="choice", split=split, name=f"{subset}-{name}")
        if not tenth or (number % 10 == 9) == (split == "validation"):
            examples.append(example)
    return some(examples, "choice", split, limit)


def _rows(subset: str, source: str, path: str | None) -> list[Row]:
    hub = (Hub(HUB[subset][0], HUB[subset][1], source, HUB[subset][2]),) if subset in HUB else ()
    return load_rows("choice", subset, (source,), path, hub)


def _file(split: str, subset: str, path: str | None) -> tuple[str, bool]:
    """(the file that holds a split, whether every tenth of it validates and the rest trains)."""
    if split == "test":
        return TEST_FILE.get(subset, "test"), False
    folder = Path(path) if path is not None else data_root() / subset
    published = find(folder, "validation") is not None if folder.is_dir() else subset in HUB
    apart = published and subset not in TEST_FILE
    return ("validation", False) if split == "validation" and apart else ("train", not apart)
