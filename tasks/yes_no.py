"""StrategyQA: yes/no questions whose steps must be found first (Geva et al. 2021, eladsegal/strategyqa).

One row:

    {"split": "train", "qid": "2bc9c4f9c19c167187f2", "term": "Genghis Khan", "answer": true,
     "question": "Are more people today related to Genghis Khan than Julius Caesar?",
     "facts": ["Julius Caesar had three children.", "Genghis Khan had sixteen children.", ...], "decomposition": [...]}

The public test split has no answers, so the authors' dev split is the test here; validation is every tenth training question.
"""

from __future__ import annotations

from exchange.records import Example
from exchange.settings import SettingError
from tasks.source import load_rows, some, text_of

STATIC_INSTRUCTION = (
    "Break the question into the facts it depends on and state each fact in a line. Decide from these facts alone; where one is not known "
    "exactly, use the likeliest value. End with a line `Answer: ` followed by yes or no."
)
FORM = "Finish with a line `Answer: ` followed by yes or no."


def as_query(question: str) -> str:
    """The question with the form of answer that is asked for."""
    return f"{question.strip()}\n\n{FORM}"


def load(split: str, *, limit: int | None = None, path: str | None = None) -> list[Example]:
    """The questions of a split in file order, at most `limit`. Raises SettingError naming file and line for a faulty row."""
    examples: list[Example] = []
    seen: set[str] = set()
    number = 0
    for where, row in load_rows("yes_no", "reasoning", ("strategyqa",), path, ()):
        question, name = text_of(row, "question", where), text_of(row, "qid", where)
        if not isinstance(row.get("answer"), bool):
            raise SettingError(f"{where}: field 'answer' is missing or not true or false")
        if question in seen:  # one question occurs twice
            continue
        seen.add(question)
        if row.get("split") not in ("train", "dev"):
            raise SettingError(f"{where}: field 'split' is missing or neither train nor dev")
        belongs = "test" if row["split"] == "dev" else "validation" if number % 10 == 9 else "train"
        number += row["split"] == "train"
        if belongs != split:
            continue
        facts = row.get("facts")
        examples.append(
            Example(
                id=f"strategyqa-{name}",
                task="yes_no",
                split=split,
                query=as_query(question),
                gold="yes" if row["answer"] else "no",
                reference="\n".join(map(str, facts)) if isinstance(facts, list) else None,
            )
        )
    return some(examples, "yes_no", split, limit)
