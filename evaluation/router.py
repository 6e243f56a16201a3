"""The router: a classifier chooses one of a few fixed texts for each question. The control that shows whether writing an instruction does
more than choosing one.

For every text a logistic regression on the question's words and pairs of words (TF-IDF) predicts whether the student will be right under
it; the text with the highest probability is given. Numbers count as one word, so that the order of words around them shows. Fitted on
training questions alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.static_search import Outcomes, means
from exchange.records import Example, Instruction, PublicExample

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def features_text(query: str) -> str:
    """The question as the classifier reads it: a number is a word that says how many digits it has."""
    return _NUMBER.sub(lambda found: f" number{len(found[0])} ", query)


def word_features(queries: Sequence[str]) -> tuple[Any, Any]:
    """(fitted vectorizer, sparse rows of unit length): TF-IDF of words, pairs and triples of words. Raises ValueError where no query has
    a word."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 3), sublinear_tf=True)
    return vectorizer, vectorizer.fit_transform([features_text(query) for query in queries])


class RouterPolicy:
    """Chooses among `texts` (empty = silence)."""

    def __init__(self, texts: Sequence[str], vectorizer: Any, models: Sequence[Any]) -> None:
        self.texts = list(texts)
        self.vectorizer = vectorizer
        self.models = list(models)
        """One a text: a fitted classifier, or the share right where it was always the same."""

    async def instruct(self, examples: Sequence[PublicExample]) -> list[Instruction]:
        features = self.vectorizer.transform([features_text(example.query) for example in examples])
        columns = [
            np.full(len(examples), model) if isinstance(model, float) else model.predict_proba(features)[:, 1] for model in self.models
        ]
        chosen = np.argmax(np.stack(columns), axis=0)
        return [Instruction(text=self.texts[i], source="static" if self.texts[i] else "silence") for i in chosen]


def fit_router(texts: Sequence[str], examples: Sequence[Example], outcomes: Outcomes) -> RouterPolicy:
    """Fit on (texts, questions) outcomes of the first questions of `examples`; what could not be judged is left out."""
    from sklearn.linear_model import LogisticRegression

    vectorizer, features = word_features([example.query for example in examples[: outcomes.shape[1]]])
    models: list[Any] = []
    for row, mean in zip(outcomes, means(outcomes), strict=True):
        known = np.flatnonzero(~np.isnan(row))
        right = row[known] >= 0.5
        if len(set(right.tolist())) < 2:
            models.append(float(mean))
            continue
        models.append(LogisticRegression(C=10.0, max_iter=1000).fit(features[known], right))
    return RouterPolicy(texts, vectorizer, models)
