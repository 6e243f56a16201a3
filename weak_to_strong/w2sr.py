"""`python -m weak_to_strong.w2sr [CONFIG.yaml] [--a.b=value ...]`: a strong student learns to reason from a weak reasoner's chains.

W2SR (Yuan et al., arXiv 2505.20072): the weak model writes a chain a problem, the strong one is fine-tuned on all of them, on the right
ones or on the wrong ones (--variant=all|positive|negative). Beside it are measured: the untrained student, with and without a
chain-of-thought prompt, because a gain that a prompt gives too is elicitation; the weak reasoner; with --ceiling the student after GRPO,
run to its plateau, and the share of that gain that was recovered (RGR). No config means the lab world: minutes on two cores.

Departures from the paper: unclean chains are dropped and counted before the choice of a variant; chains too long for the context are
dropped and not cut; answers are greedy where nothing else is set (the paper samples at 0.6).
"""

from __future__ import annotations

import sys
from typing import Any

from exchange.command import run_command
from weak_to_strong.run import sister_body
from weak_to_strong.w2sr_config import W2SRConfig, resolve


def plan(config: W2SRConfig) -> dict[str, Any]:
    from weak_to_strong.w2sr_run import plan as planned

    return planned(config)


def work(run: Any) -> dict[str, Any]:
    from weak_to_strong.w2sr_run import W2SR

    return W2SR(run)()


def main(argv: list[str] | None = None) -> int:
    name, about = "weak_to_strong.w2sr", (__doc__ or "").split("\n")[0]
    return run_command(name, lambda: sister_body(name, about, W2SRConfig, argv, check=resolve, plan=plan, work=work))


if __name__ == "__main__":
    sys.exit(main())
