"""How many units and days an A/B test needs to show an effect, read by the confidence sequence of `evaluation.analyze`.

    python -m evaluation.plan --baseline 0.62 --effect 0.03 [--daily-units 500] [--arms raw=0.5,teacher=0.5] [--json]

A 0/1 metric is planned from its rate (`--baseline`), any other from its standard deviation (`--sd`).
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from evaluation.arguments import Parser, named_numbers, number, whole
from exchange.command import run_command
from exchange.settings import SettingError


def parser() -> Parser:
    made = Parser(prog="python -m evaluation.plan", description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    made.add_argument("--baseline", help="the control's rate, for a 0/1 metric")
    made.add_argument("--sd", help="standard deviation of one event's value, for any other metric")
    made.add_argument("--effect", required=True, help="smallest difference worth finding, in the metric's own units (0.03 = 3 points)")
    made.add_argument("--alpha", default="0.05", help="chance of any false verdict (default 0.05)")
    made.add_argument("--power", default="0.8", help="chance of showing the effect if it is there (default 0.8)")
    made.add_argument("--arms", default="raw=0.5,teacher=0.5", help="arms and their shares (default raw=0.5,teacher=0.5)")
    made.add_argument("--control", help="the arm that the others are compared with (default: control, else raw)")
    made.add_argument("--metrics", default="1", help="metrics that get a verdict (default 1)")
    made.add_argument("--daily-units", help="new units a day, for the number of days")
    made.add_argument("--events-per-unit", default="1", help="events that a unit brings on average (default 1)")
    made.add_argument("--icc", default="0", help="intra-class correlation of a unit's events, 0 to 1 (default 0)")
    made.add_argument("--covariate-correlation", default="0", help="correlation of the CUPED covariate with a unit's mean (default 0)")
    made.add_argument("--json", action="store_true", help="print the plan as JSON")
    return made


def body(argv: list[str] | None) -> int:
    args = parser().parse_args(argv)
    effect = number("--effect", args.effect, least=-1e15, most=1e15)
    if effect == 0.0:
        raise SettingError(f"--effect={args.effect}: no number of units shows a difference of 0")
    if (args.baseline is None) == (args.sd is None):
        raise SettingError("give exactly one of --baseline (a 0/1 metric) and --sd (any other)")
    alpha = number("--alpha", args.alpha, least=1e-9, most=0.5)
    power = number("--power", args.power, least=0.5, most=0.999)
    metrics = whole("--metrics", args.metrics, least=1)
    daily = None if args.daily_units is None else number("--daily-units", args.daily_units, above=0.0)
    clusters = {
        "events_per_unit": number("--events-per-unit", args.events_per_unit, least=1.0),
        "icc": number("--icc", args.icc, least=0.0, most=1.0),
        "covariate_correlation": number("--covariate-correlation", args.covariate_correlation, above=-1.0, below=1.0),
    }
    weights = named_numbers("--arms", args.arms)
    rates: tuple[float, float] | None = None
    if args.baseline is not None:
        baseline = number("--baseline", args.baseline, above=0.0, below=1.0)
        if not 0.0 < baseline + effect < 1.0:
            raise SettingError(
                f"--effect={args.effect}: from a baseline of {baseline:g} it leads to {baseline + effect:g}, which is no rate"
            )
        rates = (baseline, baseline + effect)
        variances = [rate * (1.0 - rate) for rate in rates]
    else:
        variances = [number("--sd", args.sd, above=0.0, most=1e15) ** 2] * 2

    from evaluation.ab import find_control
    from evaluation.assignment import check_weights
    from evaluation.planning import plan, unit_variance

    try:
        check_weights(weights)
        control = find_control(weights, args.control)
    except ValueError as error:
        raise SettingError(f"--arms={args.arms}: {error}") from None
    a, b = (unit_variance(variance, **clusters) for variance in variances)
    shape: dict[str, Any] = {"weights": weights, "control": control, "daily_units": daily, "rates": rates}
    try:
        made = plan(effect, control_variance=a, arm_variance=b, alpha=alpha, power=power, metrics=metrics, **shape)
    except ValueError as error:
        raise SettingError(f"--effect={args.effect}: {error}") from None
    if args.json:
        print(json.dumps(made.model_dump(mode="json"), indent=1))
        return 0
    print(f"units: {', '.join(f'{arm} {n:,}' for arm, n in made.units.items())}; {made.total_units:,} in all")
    print(f"power: {made.power:.1%} at alpha {alpha:g} for a difference of {effect:+g}, looking as often as you like")
    print(f"if the effect is there, the test ends after {made.expected_units:,} units on average")
    print(f"a test that is read once, at its end, would need {made.fixed_units:,}")
    if made.days is not None:
        weeks = "" if made.days % 7 == 0 else f"; run whole weeks: {7 * math.ceil(made.days / 7):,}"
        print(f"days: {made.days:,} at {daily:g} units a day{weeks}")
    print(f"then: python -m evaluation.analyze LOG.jsonl --planned-n {made.planned_n}")
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_command("evaluation.plan", lambda: body(argv))


if __name__ == "__main__":
    sys.exit(main())
