"""MATH: competition problems with worked solutions (Hendrycks et al. 2021), tested on MATH-500 (Lightman et al. 2023).

One row:

    {"problem": "Convert the point $(0,3)$ in rectangular coordinates to polar coordinates. ...", "level": 2,
     "solution": "We have that $r = \\\\sqrt{0^2 + 3^2} = 3.$ ... $\\\\boxed{\\\\left( 3, \\\\frac{\\\\pi}{2} \\\\right)}.$",
     "answer": "\\\\left( 3, \\\\frac{\\\\pi}{2} \\\\right)", "subject": "Precalculus", "unique_id": "test/precalculus/807.json"}

Validation is every tenth training problem. `task.subset` picks the test: `math500` (the default) or `test_without_math500`, the other
4,500. No MATH-500 problem stands in the training file; two training problems that equal one of the other 4,500 are left out.
"""

from __future__ import annotations

from exchange.records import Example
from exchange.settings import SettingError
from tasks.math_answer import boxes, gold_expression
from tasks.source import Hub, load_rows, some, text_of

STATIC_INSTRUCTION = (
    "Solve the problem step by step. Name what is asked, work with exact values (fractions and roots, not decimals), and check the result "
    "against the conditions of the problem. End with one line that holds the final answer alone, in \\boxed{}: simplified, without units, "
    "several values separated by commas."
)
SUBSETS = ("math500", "test_without_math500")
SUBJECTS = ("algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra", "precalculus")
TRAIN_HUB = "EleutherAI/hendrycks_math", "21a5633873b6a120296cce3e2df9d5550074f4a3"
MATH500_HUB = "HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"

NO_GOLD = frozenset({"train/number_theory/7115", "train/number_theory/7117"})
"""The last box is empty."""
HALF_GOLD = frozenset(
    "train/algebra/152 train/algebra/1771 train/intermediate_algebra/1113 train/intermediate_algebra/1486 train/intermediate_algebra/1964 "
    "train/precalculus/571 train/precalculus/722 train/precalculus/860 train/precalculus/1040 train/precalculus/1089 "
    "train/precalculus/1149 train/precalculus/1269 test/algebra/1878 test/intermediate_algebra/225 test/intermediate_algebra/1020 "
    "test/intermediate_algebra/1855 test/intermediate_algebra/2089 test/precalculus/679 test/precalculus/1227 test/precalculus/1233".split()
)
"""The answer spans several boxes and the gold holds the last one: a full answer would be graded wrong."""
ALSO_IN_TEST = frozenset({"train/algebra/517", "train/geometry/6032"})
"""The same problem stands among the other 4,500 test problems."""


def _hub(source: str) -> tuple[Hub, ...]:
    if source == "math500_test":
        return (Hub(*MATH500_HUB, "test"),)
    if source == "train":
        return tuple(Hub(*TRAIN_HUB, "train", subject) for subject in SUBJECTS)
    return ()  # on the Hub the other 4,500 are not apart from MATH-500


def load(split: str, *, limit: int | None = None, path: str | None = None, subset: str | None = None) -> list[Example]:
    """The problems of a split in file order, at most `limit`; rows without a usable gold are left out.

    Raises SettingError naming file and line for a faulty row.
    """
    source = "train" if split != "test" else "test_without_math500" if subset == "test_without_math500" else "math500_test"
    examples: list[Example] = []
    seen: set[str] = set()
    for number, (where, row) in enumerate(load_rows("math", "math", (source,), path, _hub(source))):
        problem, solution = text_of(row, "problem", where), text_of(row, "solution", where)
        name = str(row.get("unique_id", f"{source}/{number}")).removesuffix(".json")
        gold = row.get("answer")
        if gold is None and "answer" not in row:
            gold = next(reversed(boxes(solution)), None)
        if name in seen:
            raise SettingError(f"{where}: unique_id {name!r} occurs twice")
        seen.add(name)
        if name in NO_GOLD | HALF_GOLD | (ALSO_IN_TEST if source == "train" else frozenset()):
            continue
        if not isinstance(gold, str) or gold_expression(gold) is None:
            raise SettingError(f"{where}: field 'answer' holds no expression ({gold!r})")
        if split != "test" and (number % 10 == 9) != (split == "validation"):
            continue
        examples.append(
            Example(
                id=f"math-{name.replace('/', '-')}",
                task="math",
                split=split,
                query=problem,
                gold=gold,
                reference=solution,
                family=str(row.get("subject", row.get("type"))),
                level=str(row["level"]).removeprefix("Level ") if "level" in row else None,
            )
        )
    return some(examples, "math", split, limit)
