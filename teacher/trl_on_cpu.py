"""What TRL's trainers leave undone on a CPU."""

from __future__ import annotations

from typing import Any


def score_labelled_tokens_alone() -> None:
    """Let TRL's language-model head leave out the prompt and the padding on a CPU too, as it does on a GPU: scored and masked away again,
    they take half of the time of a step. The losses stay the same but for rounding. Call it before a trainer is made; a second time it
    does nothing.
    """
    from trl.trainer import utils

    theirs = utils._use_triton
    if theirs.__module__ == __name__:
        return

    def compact(device: Any) -> bool:
        return bool(device.type == "cpu" or theirs(device))

    utils._use_triton = compact
