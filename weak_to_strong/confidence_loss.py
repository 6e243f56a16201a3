"""The auxiliary confidence loss of Burns et al. (arXiv 2312.09390, appendix A.4): the student may disagree with its weak teacher.

    L = CE(f, (1 - a) f_weak + a f_hat)

f_hat is the student's own hard prediction, thresholded so that the batch holds the classes in the proportion that the weak labels have; a
rises from 0. With two classes this is the published code (openai/weak-to-strong) without the quirk of its warm-up, which rises to a tenth
of a and jumps. With more classes, which that code refuses, the batch's quotas are filled by the assignment of highest likelihood; for two
classes that is the same threshold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from exchange.settings import SettingError

if TYPE_CHECKING:
    import torch

LARGEST_WEIGHT = 0.5
"""a at the end of the warm-up; 0.75 for the largest students in the paper."""
WARM_UP = 0.1
"""Share of training over which a rises."""


def confidence_weight(
    done: float, *, most: float = LARGEST_WEIGHT, warm_up: float = WARM_UP, schedule: Literal["linear", "openai"] = "linear"
) -> float:
    """a after a share `done` of training. `openai` is the published code's: most * done until the warm-up ends, then most at once."""
    if done >= warm_up and not (schedule == "openai" and done == warm_up):
        return most
    return most * (done if schedule == "openai" else done / warm_up)


def hard_labels(probabilities_BK: torch.Tensor, prior_K: torch.Tensor) -> torch.Tensor:
    """(B, K) one-hot predictions of the student whose class shares match the prior as nearly as B rows can."""
    import torch

    rows, classes = probabilities_BK.shape
    if classes == 2:
        threshold = torch.quantile(probabilities_BK[:, 0], float(prior_K[1]))
        first = probabilities_BK[:, 0] >= threshold
        return torch.stack([first, ~first], dim=1).to(probabilities_BK.dtype)
    from scipy.optimize import linear_sum_assignment

    exact = prior_K.double() * rows
    quota = exact.floor()
    for k in (exact - quota).argsort(descending=True)[: rows - int(quota.sum())].tolist():
        quota[k] += 1
    seats = torch.repeat_interleave(torch.arange(classes), quota.long().cpu())
    chosen = seats[linear_sum_assignment(-probabilities_BK.clamp_min(1e-30).log()[:, seats].cpu().numpy())[1]]
    return torch.nn.functional.one_hot(chosen, classes).to(probabilities_BK)


def confidence_loss(logits_BK: torch.Tensor, weak_BK: torch.Tensor, weight: float) -> torch.Tensor:
    """Mean loss of a batch: logits (B, K), weak label distributions (B, K), weight a in [0, 1]. Raises ValueError where shapes differ."""
    import torch

    if logits_BK.shape != weak_BK.shape or logits_BK.ndim != 2:
        raise ValueError(
            f"logits have shape {tuple(logits_BK.shape)} and weak labels {tuple(weak_BK.shape)}; both must be (batch, classes)"
        )
    logits_BK = logits_BK.float()
    with torch.no_grad():
        own_BK = hard_labels(logits_BK.softmax(-1), weak_BK.float().mean(0))
        target_BK = (1 - weight) * weak_BK.float() + weight * own_BK
    return torch.nn.functional.cross_entropy(logits_BK, target_BK)


def confidence_trainer(model: Any, *, most: float = LARGEST_WEIGHT, warm_up: float = WARM_UP, **trainer: Any) -> Any:
    """A transformers Trainer of a sequence classifier on soft `labels` (K probabilities a row) by the loss above; other arguments are
    Trainer's. Raises SettingError where the weak labels put every row into one class: their prior leaves nothing to be confident about."""
    from transformers import Trainer

    rows = trainer["train_dataset"]
    if len({max(range(len(label)), key=label.__getitem__) for label in rows["labels"]}) < 2:
        raise SettingError("weak labels: every row is of one class, so there is nothing to learn from them")

    class ConfidenceTrainer(Trainer):
        def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
            inputs = dict(inputs)
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            done = self.state.global_step / max(1, self.state.max_steps)
            # In evaluation there is no schedule: the plain loss against the weak labels.
            weight = confidence_weight(done, most=most, warm_up=warm_up) if model.training else 0.0
            loss = confidence_loss(outputs.logits, labels, weight)
            return (loss, outputs) if return_outputs else loss

    return ConfidenceTrainer(model=model, **trainer)
