"""The table of an evaluation: every arm with its interval, every arm against raw paired by question, what each costs and how it behaves.

The headline is the cost-accuracy frontier. Nothing here holds a time or a counter, so that the same answers give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from evaluation.beside import COUNTED_HEAD, Beside, measured_beside, print_beside
from evaluation.paired import MOST_FAILED, ArmResult, Comparison, arm_result, churn_floor, compare, verdict
from evaluation.sequences import holm
from exchange.compose import raw_messages
from exchange.guard import guard
from exchange.records import Episode, Example, Record
from rewards.episode import correct
from rewards.shape import leaks, length
from student_clients.budget import NANO, Price
from tasks import answer_type_of

UNCOUNTED = ("raw_again", "oracle")
"""Arms that nobody could deploy; they are not on the frontier."""
SMALLEST_GROUP = 5
"""Questions that a family or level needs to be shown."""


class ArmUse(Record):
    """What an arm does and takes, by question."""

    instruction_tokens: float
    """Mean length of an instruction, silence as 0 (words where no model wrote the text)."""
    prompt_tokens: float
    """The student's, all answers of a vote together, and what it took to instruct itself."""
    completion_tokens: float
    usd_per_1000: float | None
    """Dollars for 1,000 questions at the configured prices; None where there is no price."""
    leak_rate: float
    """Share of questions whose instruction hands the answer over (`rewards.shape.leaks`)."""
    truncated_rate: float
    """Share of instructions that ran into the teacher's token limit."""
    refused_rate: float
    """Share of instructions that the guard refused."""
    cut_rate: float
    """Share of answers that ran into the student's token limit."""

    @property
    def tokens(self) -> float:
        """The student's tokens a question."""
        return self.prompt_tokens + self.completion_tokens


class ArmSummary(ArmResult):
    """An arm's result, and what it took."""

    use: ArmUse
    about: str = ""


class EvalSummary(Record):
    """The `eval` block of summary.json."""

    n: int
    split: str
    alpha: float
    """Error level of every interval below."""
    margin: float = 0.05
    """Of the tests of equivalence."""
    samples: int = 1
    """Answers a question and arm."""
    churn: Literal["greedy", "measured", "not measured"] = "not measured"
    """The floor under help and harm: 0 by construction for a greedy student, from raw asked again, or not asked for."""
    arms: dict[str, ArmSummary]
    vs_raw: dict[str, Comparison]
    trained_vs: dict[str, Comparison] = Field(default_factory=dict)
    """The trained arm against every other; positive = the trained one is better."""
    frontier: list[str] = Field(default_factory=list)
    """Arms that no other beats in both cost and share right, cheapest first."""
    cost: Literal["usd", "tokens"] = "tokens"
    """What the frontier counts: dollars where every arm has a price, else the student's tokens."""
    groups: dict[str, dict[str, dict[str, ArmResult]]] = Field(default_factory=dict)
    """family / level -> group -> arm."""
    verdict: str | None = None
    """"gain", "harm", "no gain" or "unfit" for the trained arm against raw; None where it was not measured. With a second judge it is a
    gain only where both see one, and a harm where either does."""
    beside: Beside = Beside()
    """What was measured beside: second judge, gold, length-controlled win rate, guardrails, problems."""


def use_of(
    episodes: Sequence[Episode],
    examples: Sequence[Example],
    price: Price | None,
    *,
    vote: bool = False,
    instructing: tuple[float, float] = (0.0, 0.0),
) -> ArmUse:
    """What an arm took for one answer to one question; a vote takes all of its answers for one.

    `instructing` are the (prompt, completion) tokens a question that the student took to instruct itself.
    """
    n = len(episodes)
    asked = [episode.completions for episode in episodes if episode.completions]
    answers = [completion for completions in asked for completion in completions]
    # A request for several samples is billed one prompt, which stands at the first of them.
    prompts = answers if vote else [max(completions, key=lambda c: c.prompt_tokens) for completions in asked]
    of_prompts, of_answers = max(1, len(asked)), max(1, len(asked) if vote else len(answers))
    nano = 0.0
    if price is not None:
        nano = sum(price.nano(c.prompt_tokens, 0, c.cached_prompt_tokens) for c in prompts) / of_prompts
        nano += sum(price.nano(0, c.completion_tokens) for c in answers) / of_answers
        nano += price.nano(round(1000 * instructing[0]), round(1000 * instructing[1])) / 1000
    instructions = [episode.instruction for episode in episodes]
    spoken = [(text, example) for text, example in zip(instructions, examples, strict=True) if text.text]
    return ArmUse(
        instruction_tokens=sum(length(text) for text, _ in spoken) / n,
        prompt_tokens=sum(c.prompt_tokens for c in prompts) / of_prompts + instructing[0],
        completion_tokens=sum(c.completion_tokens for c in answers) / of_answers + instructing[1],
        usd_per_1000=1000 * nano / NANO if price is not None else None,
        leak_rate=sum(bool(leaks(text, example, answer_type_of(example.task))) for text, example in spoken) / n,
        truncated_rate=sum(text.truncated for text in instructions) / n,
        refused_rate=sum(guard(text, example).refused is not None for text, example in zip(instructions, examples, strict=True)) / n,
        cut_rate=sum(c.finish_reason == "length" for c in answers) / max(1, len(answers)),
    )


def frontier_of(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of (cost, share right) that no other point beats in one and reaches in the other; cheapest first.

    Of equals the trained arm stands there.
    """
    best, kept = -1.0, []
    for name, (_, right) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1], item[0] != "trained")):
        if right > best:
            kept.append(name)
            best = right
    return kept


def groups_of(examples: Sequence[Example], key: Callable[[Example], str | None], scores: Mapping[str, Sequence[float | None]], alpha: float
) -> dict[str, dict[str, ArmResult]]:  # fmt: skip
    """Every arm on each group of questions that is large enough, in the order of the groups' names."""
    names = sorted({name for example in examples if (name := key(example)) is not None})
    found: dict[str, dict[str, ArmResult]] = {}
    for name in names:
        rows = [i for i, example in enumerate(examples) if key(example) == name]
        if len(rows) >= SMALLEST_GROUP:
            found[name] = {arm: arm_result([values[i] for i in rows], alpha=alpha) for arm, values in scores.items()}
    return found


def adjusted(found: dict[str, Comparison], left_out: Sequence[str] = ("raw_again",)) -> dict[str, Comparison]:
    """The comparisons with Holm's p-values over all of them; the churn floor is no claim and takes no part."""
    names = [name for name in found if name not in left_out]
    values = dict(zip(names, holm([found[name].p_value for name in names]), strict=True))
    return {name: pair.model_copy(update={"p_holm": values[name]}) if name in values else pair for name, pair in found.items()}


def summarise(
    episodes: Mapping[str, Sequence[Episode]],
    examples: Sequence[Example],
    *,
    alpha: float = 0.05,
    margin: float = 0.05,
    samples: int = 1,
    greedy: bool = True,
    prices: Mapping[str, Price | None] | None = None,
    votes: Sequence[str] = (),
    about: Mapping[str, str] | None = None,
    instructing: Mapping[str, tuple[float, float]] | None = None,
) -> EvalSummary:
    """The `eval` block of arms that answered `examples`, each in that order. `raw` is among them; `votes` names the arms by majority,
    `instructing` what the student took to instruct itself (`use_of`)."""
    scores = {name: [correct(episode) for episode in run] for name, run in episodes.items()}
    arms: dict[str, ArmSummary] = {}
    for name, values in scores.items():
        silent = sum(not e.instruction.text for e in episodes[name]) / len(values)
        result = arm_result(values, alpha=alpha, silence_rate=silent)
        use = use_of(
            episodes[name], examples, (prices or {}).get(name), vote=name in votes, instructing=(instructing or {}).get(name, (0.0, 0.0))
        )
        arms[name] = ArmSummary(**result.model_dump(), use=use, about=(about or {}).get(name, ""))

    def against(name: str, control: str) -> Comparison | None:
        if all(a is None or b is None for a, b in zip(scores[name], scores[control], strict=True)):
            return None
        floor = None
        if "raw_again" in scores and control == "raw" and name != "raw_again":
            touched = [e.messages != raw_messages(example) for e, example in zip(episodes[name], examples, strict=True)]
            floor = churn_floor(scores["raw"], scores["raw_again"], touched)
        elif name == "raw_again":
            floor = churn_floor(scores["raw"], scores[name], [True] * len(examples))
        return compare(scores[name], scores[control], alpha=alpha, margin=margin, churn=floor)

    vs_raw = {name: pair for name in scores if name != "raw" and (pair := against(name, "raw")) is not None}
    others = [name for name in scores if name not in ("trained", "raw_again")]
    trained_vs = {name: pair for name in others if "trained" in scores and (pair := against("trained", name)) is not None}
    priced = all(arm.use.usd_per_1000 is not None for name, arm in arms.items() if name not in UNCOUNTED)
    fit = {name: arm for name, arm in arms.items() if name not in UNCOUNTED and not arm.unfit and arm.n}
    points = {name: (arm.use.usd_per_1000 or 0.0 if priced else arm.use.tokens, arm.mean) for name, arm in fit.items()}
    outcome = verdict(vs_raw["trained"]) if "trained" in vs_raw else None
    found_beside = measured_beside(episodes, examples, alpha=alpha)
    if outcome is not None and "second" in found_beside.watched and "trained" in found_beside.watched["second"].vs_raw:
        both = {outcome, verdict(found_beside.watched["second"].vs_raw["trained"])}
        outcome = both.pop() if len(both) == 1 else "harm" if "harm" in both else "no gain"
    watched = found_beside.watched.get("second")
    if outcome is not None and watched is not None and ("trained" not in watched.vs_raw or watched.arms["trained"].unfit):
        outcome = "unfit"  # the second judge did not see it
    if outcome is not None and (arms["trained"].unfit or arms["raw"].unfit):
        outcome = "unfit"
    groups = {
        "family": groups_of(examples, lambda example: example.family, scores, alpha),
        "level": groups_of(examples, lambda example: example.level, scores, alpha),
    }
    return EvalSummary(
        n=len(examples),
        split=examples[0].split,
        alpha=alpha,
        margin=margin,
        samples=samples,
        churn="measured" if "raw_again" in scores else "greedy" if greedy else "not measured",
        arms=arms,
        vs_raw=adjusted(vs_raw),
        trained_vs=adjusted(trained_vs),
        frontier=frontier_of(points),
        cost="usd" if priced else "tokens",
        groups={kind: found for kind, found in groups.items() if len(found) > 1},
        verdict=outcome,
        beside=found_beside,
    )


def notes(summary: EvalSummary) -> list[str]:
    """What a table needs beside it to be read right, a sentence each."""
    lines = []
    sure = f"{1 - summary.alpha:.0%}"
    if summary.verdict is not None:
        pair = summary.vs_raw["trained"]
        lines.append(
            f"verdict: {summary.verdict} (trained - raw {pair.difference:+.1%}, {sure} interval {pair.low:+.1%} .. {pair.high:+.1%}, "
            f"n = {pair.n} questions)"
        )
    for name, arm in summary.arms.items():
        if arm.unfit:
            lines.append(f"unfit for a claim: {name}, {arm.failed} of {summary.n} questions have no score (limit {MOST_FAILED:.0%})")
    controls = {name: pair for name, pair in summary.trained_vs.items() if name not in ("raw", "oracle")}
    if controls:
        name, pair = min(controls.items(), key=lambda item: item[1].difference)
        lines.append(
            f"strongest control: {name}; trained - {name} {pair.difference:+.1%} ({pair.low:+.1%} .. {pair.high:+.1%}, "
            f"Holm p {pair.p_holm or 0.0:.2g})"
        )
    lines.append(f"cost-accuracy frontier (student {'dollars' if summary.cost == 'usd' else 'tokens'}): " + " -> ".join(summary.frontier))
    if summary.vs_raw:
        worst = max(pair.detectable for name, pair in summary.vs_raw.items() if name != "raw_again" or len(summary.vs_raw) == 1)
        lines.append(f"minimal detectable effect: up to {100 * worst:.1f} points against raw at 80 % power; by arm in the report")
    alike = [name for name, pair in summary.vs_raw.items() if name != "raw_again" and pair.p_equivalent <= summary.alpha]
    if alike:
        lines.append(f"within {100 * summary.margin:g} points of raw (TOST at {summary.alpha:g}): {', '.join(alike)}")
    lines.append(churn_note(summary))
    lines += [f"{name}: {arm.about}" for name, arm in summary.arms.items() if arm.about]
    return lines


def churn_note(summary: EvalSummary) -> str:
    """What stands under help and harm."""
    if summary.churn == "measured":
        floor = summary.vs_raw.get("raw_again")
        rate = f"{floor.churn:.1%} each way" if floor else "not one question was answered twice"
        failed = max((pair.churn_unknown for pair in summary.vs_raw.values()), default=0)
        unknown = f"; left out of both: {failed} questions whose second raw answer failed" if failed else ""
        net = f"helps and harms are net of it where the arm spoke (below 0: less than it){unknown}"
        return f"churn floor, raw against raw again: {rate}; {net}"
    if summary.churn == "greedy":
        return "churn floor: 0, the student is greedy and gives equal prompts equal answers (--eval.include=[raw_again] asks again)"
    return "churn floor: not measured although the student samples; --eval.include=[raw_again] measures it"


def print_table(summary: EvalSummary, *, title: str) -> None:
    """The arms as two tables on the terminal, what to know of them under it."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 120)

    def made(name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        table = Table(title=name, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column in columns:
            table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        console.print(table)

    interval, net = f"{1 - summary.alpha:.0%} interval", " net" if summary.churn == "measured" else ""
    results, uses = [], []
    for name, arm in summary.arms.items():
        label = f"{name} (unfit)" if arm.unfit else name
        row = [label, f"{arm.mean:.1%}", f"{arm.low:.1%} .. {arm.high:.1%}"]
        pair = summary.vs_raw.get(name)
        if pair is not None:
            row += [f"{pair.difference:+.1%}", f"{pair.low:+.1%} .. {pair.high:+.1%}"]
            row.append(f"{pair.p_holm:.2g}" if pair.p_holm is not None else "")
            row += [f"{pair.net_help_rate:.1%}", f"{pair.net_harm_rate:.1%}"]
        else:
            row += [""] * 5
        results.append([*row, f"{arm.silence_rate:.0%}", arm.failed])
        use = arm.use
        price = [f"{use.usd_per_1000:.4g}" if use.usd_per_1000 is not None else ""] if summary.cost == "usd" else []
        rates = (use.leak_rate, use.truncated_rate, use.refused_rate, use.cut_rate)
        uses.append([label, *(f"{v:.1f}" for v in (use.instruction_tokens, use.prompt_tokens, use.completion_tokens)), *price,
                     *(f"{rate:.1%}" for rate in rates)])  # fmt: skip
    counted = COUNTED_HEAD[summary.beside.counted]
    made(title, ("arm", counted, interval, "vs raw", interval, "p (Holm)", f"helps{net}", f"harms{net}", "silent", "failed"), results)
    dollars = ["$/1,000"] if summary.cost == "usd" else []
    made(
        "tokens a question, and rates",
        ("arm", "instruction", "prompt", "answer", *dollars, "leaks", "truncated", "refused", "answers cut"),
        uses,
    )
    print_beside(summary.beside, list(summary.arms))
    for line in notes(summary):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
