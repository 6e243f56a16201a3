"""Instructions that worked on similar questions, for best-of-N to try beside new ones.

An untrained teacher's next instruction for a question is right as rarely as its last; one that made the student right on a question told
alike is right several times as often, costs no writing, and gives questions of a kind one target to learn from instead of many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from evaluation.router import word_features
from exchange.records import Instruction

PRIOR = 2.0
"""Tries that the rate of all new instructions counts for in a text's own rate."""
SHRINKAGE = 0.3
"""Weight of a text's own rate against its outcomes on similar questions, of which one told the same weighs 1."""
POWER = 2.0
"""Of a value, in proportion to which a text is drawn. The most promising one alone would become the text of all questions of a kind, and
RL would find nothing else to try: five worlds of the dial ended 1 to 6 points lower so."""
BETTER = 2.0
"""A text is suggested where its value is above so many times the rate of new instructions: a text about another question that hit by luck
would take the place of one about this question."""
AT_ONCE = 256
"""Questions that values are computed for at a time: bounds memory."""


class Borrowed:
    """What each instruction came to on the questions that it was tried on."""

    def __init__(self, queries: Sequence[str], *, seed: int = 0) -> None:
        """Questions are named by their index in `queries`, equal ones by one. They are alike by the words, pairs and triples of words that
        they share."""
        try:
            self.features = word_features(queries)[1]
        except ValueError:  # no words: no two are alike
            self.features = csr_matrix((len(queries), 1))
        self.rng = np.random.default_rng(seed)
        self.tries: list[tuple[int, int, bool | None]] = []
        """(text, question, whether it paid; None where that could not be judged)."""
        self.texts: dict[str, int] = {}
        self.instructions: list[Instruction] = []

    def tell(self, question: int, instruction: Instruction, paid: bool | None) -> None:
        """An instruction, new or borrowed, was tried on a question; `paid` is None where what came of it could not be judged. Silence is
        left out: every question has that."""
        if not instruction.text:
            return
        text = self.texts.setdefault(instruction.text, len(self.instructions))
        if text == len(self.instructions):
            self.instructions.append(instruction)
        if paid:
            self.instructions[text] = instruction  # the same words may have been cut off elsewhere
        self.tries.append((text, question, paid))

    def suggest(self, questions: Sequence[int], most: int, rate: float) -> list[list[Instruction]]:
        """For each question up to `most` instructions that it has not been tried under, drawn by how promising they are.

        The value of a text for a question is the kernel average of its outcomes (Nadaraya 1964, Watson 1964; the kernel is the squared
        cosine), shrunk to its rate over all questions but for the hit by which it was found, and that to `rate`, the share of new
        instructions that pay.
        """
        if not any(paid for *_, paid in self.tries) or most < 1:
            return [[] for _ in questions]
        asked, tries, hits = self._outcomes()
        worked = np.flatnonzero(total(hits))
        asked, tries, hits = asked[worked], tries[worked], hits[worked]
        own = (total(hits) - 1 + PRIOR * rate) / (total(tries) - 1 + PRIOR)
        found: list[list[Instruction]] = []
        for start in range(0, len(questions), AT_ONCE):
            part = list(questions[start : start + AT_ONCE])
            near = (self.features @ self.features[part].T).power(2)  # all questions x those of the part
            weight, paid = ((rows @ near).toarray().T for rows in (tries, hits))
            value = (paid + SHRINKAGE * own) / (weight + SHRINKAGE)
            value[asked[:, part].toarray().T > 0] = 0.0
            drawn = POWER * np.log(np.maximum(value, 1e-9)) + self.rng.gumbel(size=value.shape)  # the largest: without replacement
            drawn[value <= BETTER * rate] = -np.inf
            first = np.argsort(-drawn, axis=1, kind="stable")[:, :most]
            for row, order in zip(drawn, first, strict=True):
                found.append([self.instructions[worked[text]] for text in order if row[text] > -np.inf])
        return found

    def _outcomes(self) -> tuple[Any, Any, Any]:
        """(times asked, times judged, times paid), texts x questions, sparse."""
        text, question, paid = zip(*self.tries, strict=True)
        counts = ([1.0] * len(paid), [float(one is not None) for one in paid], [float(bool(one)) for one in paid])
        shape = (len(self.instructions), self.features.shape[0])
        asked, tries, hits = (csr_matrix((count, (text, question)), shape=shape) for count in counts)
        return asked, tries, hits


def total(rows: Any) -> NDArray[np.float64]:
    """Sums of a sparse matrix's rows."""
    return np.asarray(rows.sum(axis=1), dtype=np.float64).ravel()
