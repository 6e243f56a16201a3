"""What a phase took, counted the same way for every method, so that methods can be set beside each other.

Tokens are exact. FLOPs are the usual estimate for a dense decoder (Kaplan et al., arXiv 2001.08361): 2 N for a token that is read or
written, 6 N for one that is trained on, N the model's parameters; a reinforcement learner that scores its own samples again pays that too.
Seconds are this machine's: CPU seconds of the process, and the wall clock.
"""

from __future__ import annotations

from exchange.records import Record


class Cost(Record):
    """Totals; `+` adds."""

    calls: int = 0
    """Answers asked for (of the weak model, the student or a served one), those that a trainer samples included."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    trained_tokens: int = 0
    """Tokens that went through a training step, prompts included, each pass counted."""
    flops: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in Cost.model_fields})

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens + self.trained_tokens


def asked(parameters: int | None, *, calls: int, prompt_tokens: int, completion_tokens: int) -> Cost:
    """The cost of answers; `parameters` None (a model that lies elsewhere) leaves the FLOPs out."""
    flops = 2.0 * (parameters or 0) * (prompt_tokens + completion_tokens)
    return Cost(calls=calls, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, flops=flops)


def trained(parameters: int, tokens: int) -> Cost:
    """The cost of training on so many tokens."""
    return Cost(trained_tokens=tokens, flops=6.0 * parameters * tokens)


def ratio(dear: Cost, cheap: Cost) -> dict[str, float | None]:
    """How many times `dear` took what `cheap` took, by FLOPs, tokens and CPU seconds; None where the cheap one took nothing."""
    pairs = {"flops": (dear.flops, cheap.flops), "tokens": (dear.tokens, cheap.tokens), "cpu_s": (dear.cpu_s, cheap.cpu_s)}
    return {name: round(above / below, 2) if below else None for name, (above, below) in pairs.items()}
