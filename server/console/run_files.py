"""What lies in the run directories, as the pages show it. A name from outside becomes a path here alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exchange.settings import SettingError
from server.errors import Unknown
from teacher.folder import MANIFEST, read_manifest
from teacher.run_directory import RunDirectory, runs_dir

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
TAIL_BYTES = 1 << 18
"""How much of the end of a log is read for samples."""
SAMPLES = 12


@dataclass(frozen=True)
class Run:
    """A line of the list."""

    name: str
    task: str
    algorithm: str
    seed: str
    state: str
    """evaluated, or trained (a teacher, no summary), or unfinished."""
    loadable: bool
    """Whether the server can take its teacher."""
    gain: str
    """The headline in figures; empty = none was measured."""


def run_of(name: str) -> RunDirectory:
    """The run directory of a name. Raises Unknown for whatever is none inside of WST_RUNS_DIR."""
    root = runs_dir().resolve()
    path = root / name
    if not NAME.fullmatch(name) or path.resolve().parent != root or not (path / "config.yaml").is_file():
        raise Unknown("there is no run of this name")
    return RunDirectory(path)


def report_of(name: str) -> str:
    """A run's report.html. Raises Unknown."""
    path = run_of(name).path / "report.html"
    if path.resolve() != path or not path.is_file():  # no link out of the run
        raise Unknown("this run has no report yet; `python -m teacher.evaluate RUN_DIR` writes one")
    return path.read_text(encoding="utf-8")


def all_runs() -> list[Run]:
    """Every run, the newest first."""
    return list(_runs())


def _runs() -> Iterator[Run]:
    for config in sorted(runs_dir().glob("*/config.yaml"), reverse=True):
        run = RunDirectory(config.parent)
        if not NAME.fullmatch(run.path.name):
            continue
        try:
            settings = run.config()
        except SettingError:
            continue  # of a damaged one nothing can be said
        summary = summary_of(run)
        task = settings.get("task")
        state = "evaluated" if summary else "trained" if (run.teacher / MANIFEST).is_file() else "unfinished"
        yield Run(
            name=run.path.name,
            task=str(task.get("name", "")) if isinstance(task, dict) else str(task),
            algorithm=str(settings.get("algorithm", "")),
            seed=str(settings.get("seed", "")),
            state=state,
            loadable=_loadable(run),
            gain=_gain(summary),
        )


def _loadable(run: RunDirectory) -> bool:
    try:
        return bool(read_manifest(run.teacher).get("variant", "two_step") == "two_step")
    except SettingError:
        return False


def summary_of(run: RunDirectory) -> dict[str, Any]:
    """summary.json; empty where there is none that can be read."""
    try:
        found = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def at(tree: Any, *names: str) -> Any:
    """What stands below these names; None where there is nothing or no mapping."""
    for name in names:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def number(value: Any) -> float | None:
    """A number; None for whatever else a damaged file holds in its place."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else None


def arms_of(summary: dict[str, Any]) -> dict[str, tuple[float | None, ...]]:
    """(mean, low, high) of each arm of the evaluation."""
    arms = at(summary, "eval", "arms")
    return {
        name: tuple(number(at(one, key)) for key in ("mean", "low", "high"))
        for name, one in (arms.items() if isinstance(arms, dict) else ())
    }


def _gain(summary: dict[str, Any]) -> str:
    raw, trained = (number(at(summary, "eval", "arms", arm, "mean")) for arm in ("raw", "trained"))
    return "" if raw is None or trained is None else f"{100 * raw:.1f} % → {100 * trained:.1f} %"


def headline_of(folder: Path) -> str | None:
    """The finding of the run's evaluation in one sentence."""
    try:
        return str(json.loads((folder / "report.json").read_text(encoding="utf-8"))["headline"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Sample:
    """An episode of training as a page shows it."""

    step: str
    instruction: str
    message: str
    answer: str
    """Of the student, or why there is none."""
    score: float | None
    correct: float | None
    """Of the score, the part that a grader gives."""


def _sample(episode: dict[str, Any]) -> Sample:
    """Raises LookupError, TypeError for what is no episode."""
    messages, completions, scores = (episode[name] for name in ("messages", "completions", "scores"))
    told = at(completions[0], "text") if completions else None
    score = scores[0] if scores else None
    return Sample(
        step=str(episode["step"]),
        instruction=str(episode["instruction"]["text"]),
        message=str(messages[-1]["content"]) if messages else "",
        answer=str(told or episode.get("error") or ""),
        score=number(at(score, "value")),
        correct=number(at(score, "parts", "correct")),
    )


def samples_of(run: RunDirectory) -> list[Sample]:
    """The latest training episodes, the newest first: of a question one, and of a text one, since a group's are often alike."""
    path = run.path / "episodes.jsonl"
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - TAIL_BYTES))
            lines = stream.read().split(b"\n")
    except OSError:
        return []
    whole = lines[1:-1] if size > TAIL_BYTES else lines[:-1]
    found: list[Sample] = []
    seen: set[str] = set()
    for line in reversed(whole):
        try:
            episode = json.loads(line)
            sample = _sample(episode)
            names = {f"question {episode['example_id']}", f"text {sample.instruction}"}
        except (ValueError, LookupError, TypeError):
            continue
        if names & seen:
            continue
        seen |= names
        found.append(sample)
        if len(found) == SAMPLES:
            break
    return found
