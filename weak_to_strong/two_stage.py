"""`python -m weak_to_strong.two_stage [CONFIG.yaml] [--a.b=value ...]`: weak-to-strong reasoning without golds, in two stages.

Yang, Ma, Liu (arXiv 2407.13647). Stage I: the weak model's answers and the strong model's, who is shown some of them, are kept where the
final answers agree, and the strong model learns them; --stage_one.rounds goes on with what it has become. Stage II: what the Stage I model
is sure of against what the weak model said, as preferences. Beside them: the untrained student, the weak model, fine-tuning on all weak
answers, fine-tuning on gold solutions. No config means the lab world.
"""

from __future__ import annotations

import sys
from typing import Any

from exchange.command import run_command
from weak_to_strong.run import sister_body
from weak_to_strong.two_stage_config import TwoStageConfig, resolve


def plan(config: TwoStageConfig) -> dict[str, Any]:
    from weak_to_strong.two_stage_run import plan as planned

    return planned(config)


def work(run: Any) -> dict[str, Any]:
    from weak_to_strong.two_stage_run import TwoStage

    return TwoStage(run)()


def main(argv: list[str] | None = None) -> int:
    name, about = "weak_to_strong.two_stage", (__doc__ or "").split("\n")[0]
    return run_command(name, lambda: sister_body(name, about, TwoStageConfig, argv, check=resolve, plan=plan, work=work))


if __name__ == "__main__":
    sys.exit(main())
