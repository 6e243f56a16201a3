"""The auxiliary confidence loss against the batch of four that openai/weak-to-strong's code was worked out on."""

from __future__ import annotations

import pytest

from exchange.settings import SettingError
from weak_to_strong.confidence_loss import confidence_loss, confidence_trainer, confidence_weight, hard_labels

WEAK = [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.9, 0.1]]
LOGITS = [[2.0, 0.0], [0.2, 0.0], [0.1, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize(("weight", "loss"), [(0.0, 0.520681), (0.25, 0.501931), (0.5, 0.483181)])
def test_the_worked_batch(weight: float, loss: float) -> None:
    import torch

    assert float(confidence_loss(torch.tensor(LOGITS), torch.tensor(WEAK), weight)) == pytest.approx(loss, abs=2e-6)


def test_hard_labels_match_the_prior_and_not_the_argmax() -> None:
    import torch

    own = torch.tensor(LOGITS).softmax(-1)
    assert hard_labels(own, torch.tensor([0.75, 0.25]))[:, 0].tolist() == [1.0, 1.0, 0.0, 1.0]
    # A third class that nobody's argmax is still gets its share of the rows: the likeliest ones.
    three = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.4, 0.35, 0.25], [0.7, 0.2, 0.1]])
    assert hard_labels(three, torch.tensor([0.5, 0.25, 0.25])).argmax(-1).tolist() in ([0, 1, 2, 0], [0, 2, 1, 0])
    assert hard_labels(torch.cat([own, torch.zeros(4, 1)], 1), torch.tensor([0.75, 0.25, 0.0]))[:, 0].tolist() == [1.0, 1.0, 0.0, 1.0]


def test_the_warm_up_is_a_ramp_and_the_published_codes_a_jump() -> None:
    assert [confidence_weight(done) for done in (0.0, 0.05, 0.1, 0.5)] == pytest.approx([0.0, 0.25, 0.5, 0.5])
    assert [confidence_weight(done, schedule="openai") for done in (0.05, 0.1, 0.5)] == pytest.approx([0.025, 0.05, 0.5])


def test_shapes_must_agree() -> None:
    import torch

    with pytest.raises(ValueError, match="both must be"):
        confidence_loss(torch.zeros(2, 3), torch.zeros(2, 2), 0.5)


def test_one_class_of_weak_labels_is_refused() -> None:
    from datasets import Dataset

    with pytest.raises(SettingError, match="every row is of one class"):
        confidence_trainer(None, train_dataset=Dataset.from_dict({"labels": [[0.9, 0.1], [0.8, 0.2]]}))
