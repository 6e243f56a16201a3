"""Chains that a weak reasoner wrote: how they are asked for, cleaned, graded and chosen.

One line of traces.jsonl:

    {"example_id": "lab-reasoning-train-0", "sample_index": 0, "completion": "14 + 5 = 19\\n#### 19", "finish_reason": "stop",
     "is_correct": true, "extracted": "19", "first_and_last_differ": false, "n_tokens": 12, "teacher": "lab:reasoning/weak",
     "temperature": 0.0, "seed": null}

W2SR (Yuan et al., arXiv 2505.20072) writes one greedy chain a problem and trains on all of them, on the right ones (W2SR-P) or the wrong
ones (W2SR-N). The hygiene filter comes before that choice and never looks at correctness: a chain that was cut, loops or slips into another
script teaches how not to stop. A chain without an answer is a wrong chain, not an unclean one, unless `drop_unanswered` is set.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from evaluation.arms import FixedPolicy, run_arm
from exchange.command import RunError
from exchange.protocols import SamplingParams, StudentClient
from exchange.records import Completion, Example, Record
from exchange.settings import SettingError, Settings
from rewards.correctness import Grader, grade_answer
from rewards.rubric import RewardConfig, Rubric
from tasks.math_answer import MARKER
from tasks.source import read_lines

Variant = Literal["all", "positive", "negative"]
"""Which chains are trained on: W2SR, W2SR-P, W2SR-N."""
RULES = ("failed", "empty", "truncated", "loop", "foreign", "unanswered", "unjudged", "duplicate")
"""Why a chain is dropped, in the order they are looked for; a chain counts under the first that fits."""


class NothingLeft(RunError):
    """Everything was filtered away: nothing to learn from."""


class Trace(Record):
    """One chain. `is_correct` None: the grader could not decide."""

    example_id: str
    sample_index: int = 0
    completion: str | None
    finish_reason: str | None = None
    is_correct: bool | None = None
    extracted: str | None = None
    first_and_last_differ: bool = False
    """The text names more than one final answer, and they differ: the last one counts; a text that goes on after its answer is suspect."""
    n_tokens: int = 0
    prompt_tokens: int = 0
    teacher: str = ""
    temperature: float | None = None
    seed: int | None = None


class HygieneConfig(Settings):
    """What a chain must be to be learnt from, whether right or wrong."""

    loop_words: int = Field(default=20, ge=4)
    """A stretch of at least so many words that is one phrase said again and again is a loop."""
    foreign: bool = True
    """Drop chains with letters of a script that the question does not use (Latin and Greek are never foreign), or with a web address."""
    drop_unanswered: bool = False
    """Drop chains without an answer; off, they are wrong chains (W2SR's own rule)."""


def loops(text: str, words_at_least: int = 20) -> bool:
    """Whether a phrase of up to 30 words is said at least three times on end, over at least so many words."""
    words = text.split()
    for period in range(1, min(30, len(words) // 3) + 1):
        run = 0
        for k in range(period, len(words)):
            run = run + 1 if words[k] == words[k - period] else 0
            if run >= 2 * period and run + period >= words_at_least:
                return True
    return False


def scripts(text: str) -> set[str]:
    """The scripts of the letters in a text, by the first word of their Unicode names (LATIN, CYRILLIC, CJK, HANGUL ...)."""
    return {unicodedata.name(letter, "UNKNOWN").split()[0] for letter in set(text) if letter.isalpha()}


AT_HOME = {"LATIN", "GREEK", "FEMININE", "MASCULINE", "MICRO", "DOUBLE-STRUCK", "SCRIPT", "MATHEMATICAL", "MODIFIER", "KELVIN", "ANGSTROM"}
_ADDRESS = re.compile(r"https?://|\bwww\.", re.IGNORECASE)


def is_foreign(text: str, query: str) -> bool:
    return bool(scripts(text) - AT_HOME - scripts(query)) or bool(_ADDRESS.search(text) and not _ADDRESS.search(query))


def first_and_last_differ(text: str) -> bool:
    """Whether the text gives two different final answers at its markers (boxes, `####`, `A:`, "the answer is")."""
    found = []
    for marker in MARKER.finditer(text):
        rest = text[marker.end() :].lstrip(" {:*$").split("\n")[0]
        token = re.match(r"[-−+\\\w.,/^()]+", rest)
        if token:
            found.append(token.group().rstrip(".,)"))
    return len(found) > 1 and found[0] != found[-1]


def clean(traces: Sequence[Trace], queries: dict[str, str], config: HygieneConfig) -> tuple[list[Trace], dict[str, int]]:
    """(the chains that pass, in order, how many each rule dropped). `queries`: the question's text by id."""
    kept, dropped = [], Counter(dict.fromkeys(RULES, 0))
    seen: set[tuple[str, str]] = set()
    for trace in traces:
        rule = _rule(trace, queries[trace.example_id], config, seen)
        if rule is None:
            kept.append(trace)
        else:
            dropped[rule] += 1
    return kept, dict(dropped)


def _rule(trace: Trace, query: str, config: HygieneConfig, seen: set[tuple[str, str]]) -> str | None:
    text = trace.completion
    if text is None:
        return "failed"
    if not text.strip():
        return "empty"
    if trace.finish_reason not in ("stop", None):
        return "truncated"
    if loops(text, config.loop_words):
        return "loop"
    if config.foreign and is_foreign(text, query):
        return "foreign"
    if config.drop_unanswered and trace.extracted is None:
        return "unanswered"
    if trace.is_correct is None:
        return "unjudged"
    key = (trace.example_id, " ".join(text.split()))
    if key in seen:
        return "duplicate"
    seen.add(key)
    return None


def of_variant(traces: Sequence[Trace], variant: Variant) -> list[Trace]:
    """The chains that a variant trains on; positive and negative are disjoint and make up all."""
    return [trace for trace in traces if variant == "all" or trace.is_correct == (variant == "positive")]


def chosen(
    traces: Sequence[Trace], variant: Variant, *, match_size: bool, keep: int | None, rng: random.Random
) -> tuple[list[Trace], dict[str, int]]:
    """(the chains to train on, the size of every variant before that choice).

    `keep`: at most so many a question, drawn at random. `match_size`: as many as the smallest variant has, so that variants differ in what
    they hold and not in how much.
    """
    sets = {name: of_variant(traces, name) for name in ("all", "positive", "negative")}
    if keep is not None:
        sets = {name: _at_most(held, keep, rng) for name, held in sets.items()}
    sizes = {name: len(held) for name, held in sets.items()}
    taken = sets[variant]
    if match_size:
        taken = rng.sample(taken, min(sizes.values()))
    return taken, sizes


def _at_most(traces: Sequence[Trace], keep: int, rng: random.Random) -> list[Trace]:
    by_question: dict[str, list[Trace]] = {}
    for trace in traces:
        by_question.setdefault(trace.example_id, []).append(trace)
    return [trace for held in by_question.values() for trace in rng.sample(held, min(keep, len(held)))]


async def write_traces(
    examples: Sequence[Example], *, client: StudentClient, params: SamplingParams, instruction: str, samples: int
) -> list[Trace]:
    """Ask the weak reasoner for `samples` chains a question and grade them. A call that failed is a trace without text."""
    reward = Rubric(RewardConfig())
    episodes = await run_arm("weak", FixedPolicy(instruction), examples, student=client, params=params, reward=reward, samples=samples)
    traces = []
    for episode in episodes:
        if not episode.completions:
            traces += [Trace(example_id=episode.example_id, sample_index=k, completion=None) for k in range(samples)]
        for k, (completion, score) in enumerate(zip(episode.completions, episode.scores, strict=True)):
            traces.append(
                Trace(
                    example_id=episode.example_id,
                    sample_index=k,
                    completion=completion.text,
                    finish_reason=completion.finish_reason,
                    is_correct=None if score.value is None else bool(score.parts["correct"]),  # the value pays for form too
                    extracted=score.extracted,
                    first_and_last_differ=first_and_last_differ(completion.text or ""),
                    n_tokens=completion.completion_tokens,
                    prompt_tokens=completion.prompt_tokens,
                    teacher=client.name,
                    temperature=params.temperature,
                    seed=params.seed,
                )
            )
    return traces


def save_traces(path: Path, traces: Sequence[Trace]) -> None:
    """Write traces.jsonl, whole or not at all. Raises OSError."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(trace.model_dump_json() + "\n" for trace in traces), encoding="utf-8", errors="backslashreplace")
    temporary.replace(path)


def read_traces(path: Path, setting: str) -> list[Trace]:
    """The chains of a file. Raises SettingError naming the line."""
    if not path.is_file():
        raise SettingError(f"{setting}={str(path)!r}: no such file; it holds lines as traces.jsonl of a run does")
    traces = []
    for number, row in read_lines(path):
        try:
            traces.append(Trace.model_validate(row))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the line"
            raise SettingError(f"{path}:{number}: {where}: {first['msg'].lower()}") from None
    if not traces:
        raise SettingError(f"{setting}={str(path)!r}: holds no chain")
    return traces


async def graded(traces: Sequence[Trace], examples: Sequence[Example]) -> list[Trace]:
    """The chains of a file with grades of our own, so that a label in the file decides nothing. Raises SettingError where a chain belongs
    to no question of the task."""
    by_id = {example.id: example for example in examples}
    for trace in traces:
        if trace.example_id not in by_id:
            raise SettingError(
                f"traces.file: the chain of {trace.example_id!r} belongs to none of the {len(by_id)} training questions "
                f"(the first is {examples[0].id!r}); the file was made for another task, or with a larger task.train_size"
            )
    grader, found = Grader(), []
    for trace in traces:
        score = await grade_answer(grader, by_id[trace.example_id], Completion(text=trace.completion))
        differ = first_and_last_differ(trace.completion or "")
        grade = None if score.value is None else bool(score.value)
        found.append(trace.model_copy(update={"is_correct": grade, "extracted": score.extracted, "first_and_last_differ": differ}))
    return found


def check_usable(
    traces: Sequence[Trace], kept: Sequence[Trace], dropped: dict[str, int], taken: Sequence[Trace], variant: Variant, file: Path
) -> None:
    """Raises NothingLeft where there is nothing to learn from, naming the cause. `file` holds the traces, for another run."""
    again = f"--traces.file={file} gives them to another run"
    counts = ", ".join(f"{rule} {count}" for rule, count in dropped.items() if count)
    if not kept:
        raise NothingLeft(f"all {len(traces)} chains were filtered away ({counts}); change hygiene.* ({again})")
    if all(trace.extracted is None for trace in kept):
        raise NothingLeft(
            f"not one of {len(kept)} chains holds an answer that the grader finds; ask for one with traces.instruction, e.g. "
            "`End with a line #### and the final number only.`"
        )
    if not taken:
        raise NothingLeft(
            f"variant {variant}: nothing is left of {len(kept)} clean chains, {sum(bool(t.is_correct) for t in kept)} of which are right; "
            f"take another variant, or more questions where match_size asks for as many as the smallest variant has ({again})"
        )
