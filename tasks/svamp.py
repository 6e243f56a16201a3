"""SVAMP: elementary word problems that punish keyword reading (Patel et al. 2021, arkilpatel/SVAMP).

One row:

    {"ID": "chal-1", "Body": "Each pack of dvds costs 76 dollars. If there is a discount of 25 dollars on each pack",
     "Question": "How much do you have to pay to buy each pack?", "Equation": "( 76.0 - 25.0 )", "Answer": 51.0, "Type": "Subtraction"}

The set is one file, and many of its rows are variations on one story: rows with the same body stay together, three tenths of the bodies
in test, one tenth in validation.
"""

from __future__ import annotations

from exchange.records import Example
from exchange.settings import SettingError
from tasks.source import load_rows, some, stable_share, text_of

STATIC_INSTRUCTION = (
    "Read the question first and note which quantity it asks for; some numbers of the story may not matter. "
    "Write the calculation, one step a line. End with a line `#### ` followed by the final number only."
)
WRONG_GOLD = frozenset({"chal-680"})
"""The equation gives 5, the gold says 1."""


def split_of(body: str) -> str:
    """Which split a story belongs to."""
    share = stable_share(body.strip(), 10)
    return "test" if share < 3 else "validation" if share == 3 else "train"


def load(split: str, *, limit: int | None = None, path: str | None = None) -> list[Example]:
    """The questions of a split in file order, at most `limit`. Raises SettingError naming file and line for a faulty row."""
    examples: list[Example] = []
    seen: set[str] = set()
    for where, row in load_rows("svamp", "reasoning", ("svamp",), path, ()):
        body, question, name = (text_of(row, field, where).strip() for field in ("Body", "Question", "ID"))
        answer = row.get("Answer")
        if isinstance(answer, bool) or not isinstance(answer, int | float):
            raise SettingError(f"{where}: field 'Answer' is missing or not a number")
        if name in seen:
            raise SettingError(f"{where}: ID {name!r} occurs twice")
        seen.add(name)
        if name in WRONG_GOLD or split_of(body) != split:
            continue
        query = f"{body}{'' if body[-1] in '.,?!' else '.'} {question}"
        examples.append(
            Example(id=f"svamp-{name}", task="svamp", split=split, query=query, gold=f"{answer:g}", family=str(row.get("Type")))
        )
    return some(examples, "svamp", split, limit)
