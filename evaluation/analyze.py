"""What an A/B test's log shows, valid however often one looks.

    python -m evaluation.analyze LOG.jsonl [--control A] [--alpha 0.05] [--planned-n N] [--weights arm=w,...] [--json]

Reads a log (form: `evaluation/ab_log.py`), prints a table and one sentence a metric and arm, or with `--json` the report itself. Nothing is
printed before everything is computed, and the same log gives the same bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from evaluation.arguments import Parser, named_numbers, number, whole
from exchange.command import run_command
from exchange.settings import SettingError

DIGITS = 10
"""Significant digits in the JSON: more would differ between processors that add in another order."""


def rounded(value: Any) -> Any:
    """The report with floats cut to DIGITS significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(below) for key, below in value.items()}
    return [rounded(below) for below in value] if isinstance(value, list | tuple) else value


def parser() -> Parser:
    made = Parser(prog="python -m evaluation.analyze", description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    made.add_argument("log", metavar="LOG.jsonl", help='lines {"unit","arm","metric","value","covariate"?,"time"}; value null = no outcome')
    made.add_argument("--control", help="the arm that the others are compared with (default: control, else raw)")
    made.add_argument("--alpha", default="0.05", help="error level of each interval, and of all verdicts together (default 0.05)")
    made.add_argument(
        "--planned-n", help="units in the two arms of a comparison at which its interval is narrowest (default 5000); plan it first"
    )
    made.add_argument("--weights", help="planned shares of units, arm=w,arm=w, summing to 1 (default: equal)")
    made.add_argument("--lower-is-better", default="", metavar="METRIC,...", help="metrics such as latency, of which less is better")
    made.add_argument("--json", action="store_true", help="print the report as JSON")
    return made


def body(argv: list[str] | None) -> int:
    args = parser().parse_args(argv)
    alpha = number("--alpha", args.alpha, above=0.0, most=0.5)
    planned_n = None if args.planned_n is None else whole("--planned-n", args.planned_n, least=2)
    weights = None if args.weights is None else named_numbers("--weights", args.weights)
    lower = [name.strip() for name in args.lower_is_better.split(",") if name.strip()]

    from evaluation.ab import analyse
    from evaluation.ab_log import read_log
    from evaluation.sequences import DEFAULT_PLANNED_N

    log = read_log(Path(args.log))
    try:
        planned = planned_n or DEFAULT_PLANNED_N
        report = analyse(log, control=args.control, alpha=alpha, planned_n=planned, weights=weights, lower_is_better=lower)
    except ValueError as error:
        raise SettingError(f"{args.log}: {error}") from None
    if args.json:
        print(json.dumps(rounded(report.model_dump(mode="json")), indent=1, allow_nan=False))
    else:
        from evaluation.ab_text import print_report

        print_report(report)
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_command("evaluation.analyze", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
