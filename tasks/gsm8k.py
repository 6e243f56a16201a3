"""GSM8K: grade-school word problems (Cobbe et al. 2021, openai/grade-school-math), from a local folder or the Hub.

One row:

    {"question": "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. ...",
     "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\\n... = <<48+24=72>>72 clips altogether ...\\n#### 72"}

The gold is the number on the `####` line, never the last `<<...>>` annotation (470 rows differ). Validation questions are every tenth
of the training file.
"""

from __future__ import annotations

from exchange.records import Example
from exchange.settings import SettingError
from tasks.gsm8k_answer import gold_number
from tasks.source import Hub, load_rows, some, text_of

HUB_ID = "openai/gsm8k"
HUB_REVISION = "e53f048856ff4f594e959d75785d2c2d37b678ee"
STATIC_INSTRUCTION = (
    "Think step by step: write down what is known, compute one step a line, and check the units. "
    "End with a line `#### ` followed by the final number only."
)


def load(split: str, *, limit: int | None = None, path: str | None = None) -> list[Example]:
    """The questions of a split in file order, at most `limit`. Raises SettingError naming file and line for a faulty row."""
    source = "test" if split == "test" else "train"
    examples: list[Example] = []
    for number, (where, row) in enumerate(load_rows("gsm8k", "gsm8k", (source,), path, (Hub(HUB_ID, HUB_REVISION, source, "main"),))):
        question, answer = text_of(row, "question", where), text_of(row, "answer", where)
        if gold_number(answer) is None:
            raise SettingError(f"{where}: the answer has no number after ####")
        if split != "test" and (number % 10 == 9) != (split == "validation"):
            continue
        examples.append(
            Example(
                id=f"gsm8k-{source}-{number}",
                task="gsm8k",
                split=split,
                query=question,
                gold=answer.rpartition("####")[2].strip(),
                reference=answer,
            )
        )
    return some(examples, "gsm8k", split, limit)
