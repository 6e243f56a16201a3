"""Gain and misfit on real preferences: which of two replies of HH-RLHF people liked better, from hashed words.

The student sees 128 principal components of the difference of the two replies' hashed word and word-pair counts, and of their lengths. A
weak teacher sees a few components of their letter triples, and learns from few labels or many. No language model is in it: the only
weights that ship are the lab's, which know 500 tokens. Labels are 0 and 1 and noisy, so no head holds the truth and no equality is
promised.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from tasks.hh_rlhf import TEST_FILES, TRAIN_FILES, load_pairs
from weak_to_strong.divergence import DIVERGENCES, Array
from weak_to_strong.gain import Candidate
from weak_to_strong.heads import fit_least_squares

COMPONENTS = 128
TEACHERS = tuple((components, rows) for rows in (250, 2000) for components in (2, 8, 32, COMPONENTS))
"""(components of the letters that the weak teacher sees, labelled pairs that it learns from)."""


@cache
def preferences() -> tuple[Array, Array, Array]:
    """(the student's features (N, 129), the teachers' (N, 128), labels (N, 1)) of all pairs whose replies differ; which reply stands first
    is drawn, and 1 says that people preferred that one."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer

    found = [pair for file in (*TRAIN_FILES, *TEST_FILES) for pair in load_pairs(file)]
    pairs = [pair for pair in found if pair.chosen and pair.rejected and pair.chosen != pair.rejected]
    first = np.random.default_rng(0).random(len(pairs)) < 0.5
    sign = np.where(first, 1.0, -1.0)

    def components(counter: HashingVectorizer) -> Array:
        difference = counter.transform([pair.chosen for pair in pairs]) - counter.transform([pair.rejected for pair in pairs])
        return np.asarray(TruncatedSVD(COMPONENTS, random_state=0).fit_transform(difference.multiply(sign[:, None]).tocsr()))

    lengths = np.array([np.log1p(len(pair.chosen)) - np.log1p(len(pair.rejected)) for pair in pairs])
    words = components(HashingVectorizer(n_features=2**14, ngram_range=(1, 2), norm="l2"))
    letters = components(HashingVectorizer(n_features=2**14, analyzer="char_wb", ngram_range=(3, 3), norm="l2"))
    return np.column_stack([lengths * sign, words]), letters, first.astype(float)[:, None]


@dataclass(frozen=True)
class Outcome:
    """One weak teacher on one split of the pairs: mean squared errors on test pairs, and accuracies."""

    name: str
    candidate: Candidate
    """weak_error on the teacher's own hold-out, misfit on unlabelled pairs, the student's error on test pairs."""
    gain: float
    misfit: float
    """Both on test pairs."""
    accuracies: tuple[Array, Array, Array]
    """Right or wrong by test pair: weak teacher, student, ceiling (the strong features with all labels of the student's pairs)."""


def study(seed: int) -> list[Outcome]:
    """Every teacher of TEACHERS on one split: teachers' pairs, their hold-out (500), the student's pairs, test (2,000)."""
    features, letters, labels = preferences()
    order = np.random.default_rng(seed).permutation(len(labels))
    test, held_out, rest = order[:2000], order[2000:2500], order[2500:]
    own, students = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    loss = DIVERGENCES["squared"]
    ceiling = fit_least_squares(features[students], labels[students]).predict(features[test])
    found = []
    for columns, rows in TEACHERS:
        teacher = fit_least_squares(letters[own[:rows], :columns], labels[own[:rows]])
        parts = {"held_out": held_out, "students": students, "test": test}
        said = {name: teacher.predict(letters[part, :columns]) for name, part in parts.items()}
        head = fit_least_squares(features[students], said["students"])
        learnt = head.predict(features[test])
        errors = [float(loss.error(outputs, labels[test]).mean()) for outputs in (said["test"], learnt)]
        weak, student, most = (((outputs > 0.5) == (labels[test] > 0.5))[:, 0].astype(float) for outputs in (said["test"], learnt, ceiling))
        found.append(
            Outcome(
                name=f"{columns} components, {rows} labels",
                candidate=Candidate(
                    name=f"{columns}/{rows}",
                    weak_error=float(loss.error(said["held_out"], labels[held_out]).mean()),
                    misfit=float(loss.misfit(head.predict(features[students]), said["students"]).mean()),
                    student_error=errors[1],
                ),
                gain=errors[0] - errors[1],
                misfit=float(loss.misfit(learnt, said["test"]).mean()),
                accuracies=(weak, student, most),
            )
        )
    return found
