"""Knights and knaves: who always tells the truth and who always lies (Smullyan 1978), generated, with exactly one solution each.

One row:

    query   On an island live knights, who always tell the truth, and knaves, who always lie. You meet Ada, Bo and Cy.
            Ada says: "Bo is a knave." Bo says: "Ada and Cy are of the same kind." Cy says: "Exactly one of us is a knight."
            Who is a knight, and who is a knave? Finish with a line `Answer: ` that names each person, ...
    gold    Ada: knave, Bo: knight, Cy: knave

Every puzzle is solved by trying all assignments, and kept where one of them holds. A puzzle belongs to a split by its statements without
the names, so that no test puzzle is a training puzzle retold.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from exchange.records import Example
from tasks.math_answer import boxes, visible
from tasks.source import stable_share

NAMES = "Ada Bo Cy Dina Eli Fern Gil Hope Ivo Jade Kit Luz Max Nell Otis Pam Rex Sue Ted Una".split()
STATIC_INSTRUCTION = (
    "Suppose the first person is a knight and follow what each statement then implies; then suppose a knave. Drop a case as soon as it "
    "contradicts itself, and check every statement of the case that remains: a knight's must be true, a knave's false. "
    "End with a line `Answer: ` that names each person, as in `Ada: knight, Bo: knave`."
)
RULES = "On an island live knights, who always tell the truth, and knaves, who always lie."
FORM = "Finish with a line `Answer: ` that names each person, as in `Ada: knight, Bo: knave`."
Kinds = tuple[bool, ...]
"""True = knight, a person each."""


@dataclass(frozen=True)
class Statement:
    """What a person says, about people by their number."""

    form: str
    about: tuple[int, ...]
    count: int = 0

    def holds(self, kinds: Kinds) -> bool:
        return FORMS[self.form][1](tuple(kinds[i] for i in self.about), self.count, sum(kinds))

    def text(self, names: list[str]) -> str:
        about = [names[i] for i in self.about]
        return FORMS[self.form][0].format(*about, count=COUNTS[self.count])


COUNTS = ("none is a knight", "one is a knight", "two are knights", "three are knights")
FORMS: dict[str, tuple[str, Callable[[Kinds, int, int], bool], int]] = {
    "knight": ("{0} is a knight.", lambda k, n, total: k[0], 1),
    "knave": ("{0} is a knave.", lambda k, n, total: not k[0], 1),
    "same": ("{0} and {1} are of the same kind.", lambda k, n, total: k[0] == k[1], 2),
    "different": ("{0} and {1} are of different kinds.", lambda k, n, total: k[0] != k[1], 2),
    "either": ("At least one of {0} and {1} is a knave.", lambda k, n, total: not (k[0] and k[1]), 2),
    "if": ("If {0} is a knight, then {1} is a knave.", lambda k, n, total: not k[0] or not k[1], 2),
    "count": ("Of all of us, exactly {count}.", lambda k, n, total: total == n, 0),
}
"""Form -> (text, when it holds, how many people it speaks about)."""


def solutions(statements: list[Statement]) -> list[Kinds]:
    """Every assignment in which a statement holds exactly where its speaker is a knight."""
    people = itertools.product((True, False), repeat=len(statements))
    return [kinds for kinds in people if all(said.holds(kinds) == kinds[i] for i, said in enumerate(statements))]


def draw(rng: random.Random) -> list[Statement]:
    """A puzzle for two to five people with one solution; nobody speaks about themselves alone."""
    while True:
        people = rng.randint(2, 5)
        statements = []
        for speaker in range(people):
            form = rng.choice([name for name in FORMS if name != "count" or people > 2])
            others = [i for i in range(people) if i != speaker]
            size = FORMS[form][2]
            about = rng.sample(others, 1) if size == 1 else rng.sample([*others, speaker], size)
            statements.append(Statement(form, tuple(about), rng.randint(1, 3) if form == "count" else 0))
        if len(solutions(statements)) == 1:
            return statements


def example(statements: list[Statement], names: list[str], split: str, number: int) -> Example:
    """The puzzle in words."""
    said = "\n".join(f'{names[i]} says: "{statement.text(names)}"' for i, statement in enumerate(statements))
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    gold = ", ".join(f"{name}: {'knight' if kind else 'knave'}" for name, kind in zip(names, solutions(statements)[0]))
    query = f"{RULES} You meet {listed}.\n{said}\nWho is a knight, and who is a knave? {FORM}"
    return Example(
        id=f"knights-{split}-{number}", task="knights_knaves", split=split, query=query, gold=gold, family=f"{len(statements)} people"
    )


def split_of(statements: list[Statement]) -> str:
    share = stable_share(repr([(said.form, said.about, said.count) for said in statements]), 10)
    return "test" if share < 2 else "validation" if share == 2 else "train"


def load(split: str, *, limit: int) -> list[Example]:
    """The first `limit` puzzles of a split, equal on every machine; no puzzle repeats, with other names or the same."""
    rng = random.Random(f"knights_knaves/{split}")
    seen: set[str] = set()
    examples: list[Example] = []
    while len(examples) < limit:
        statements = draw(rng)
        key = repr(statements)
        if key in seen or split_of(statements) != split:
            continue
        seen.add(key)
        examples.append(example(statements, rng.sample(NAMES, len(statements)), split, len(examples)))
    return examples


_ROLE = re.compile(r"\b(knight|knave)s?\b", re.IGNORECASE)


def gold_roles(gold: str) -> str | None:
    """The gold in one order: `Ada: knave, Bo: knight`; None where it names nobody."""
    found = re.findall(r"([^\W\d_][\w'-]*)\s*(?::|is|=|-)\s*(?:an?\s+)?(knight|knave)\b", gold, re.IGNORECASE)
    return ", ".join(sorted(f"{name}: {role.lower()}" for name, role in found)) or None


def extract_roles(text: str, gold: str, *, strict: bool = False) -> str | None:
    """Who is what, for the people the gold names, in the gold's form; None where one of them is left out.

    Of each person the last statement counts: `Ada is a knave`, `Ada: knave`, `Ada and Bo are knights`.
    """
    names = [pair.partition(":")[0] for pair in (gold_roles(gold) or "").split(", ")]
    text = visible(text).replace("*", "")
    group = boxes(text)
    marked = re.split(r"####|\b[Aa]nswer(?:\s+is)?\s*:?|\b[Cc]onclusion\s*:", text)
    readings = [group[-1]] if group else []
    readings += marked[:0:-1][:3] if len(marked) > 1 else []
    for reading in readings if strict else [*readings, text]:
        roles: dict[str, str] = {}
        for clause in re.split(r"[.;\n]", reading):
            listed = re.match(r"\W*(knight|knave)s?\s*:\s*(.*)", clause, re.IGNORECASE)
            if listed:  # Knights: Ada, Bo
                roles |= {name: listed[1].lower() for name in names if re.search(rf"\b{re.escape(name)}\b", listed[2])}
                continue
            start = 0
            for role in _ROLE.finditer(clause):
                before, start = clause[start : role.start()], role.end()
                kind = role[1].lower()
                if re.search(r"\bnot\b|n't\b", before):
                    kind = "knave" if kind == "knight" else "knight"
                roles |= {name: kind for name in names if re.search(rf"\b{re.escape(name)}\b", before)}
        if all(name in roles for name in names):
            return ", ".join(sorted(f"{name}: {roles[name]}" for name in names))
    return None
