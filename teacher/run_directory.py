"""A run directory: what a run leaves behind, how it is found again, and which of its checkpoints are whole.

    runs/20261120-204100-lab_arithmetic-grpo-s0/
        config.yaml      fully resolved, with git commit
        metrics.jsonl    a line a step
        episodes.jsonl   a line a training episode
        alarms.jsonl     signs of collapse, where there were any
        filter.json      how many questions RL left out, by what the warm start found of them
        ended.json       why learning ended before its last step, where it did
        checkpoints/     checkpoint-N/ from TRL, warm_start/ and best-N/ model folders; each whole one holds a file `complete`
        teacher/         the best teacher (teacher.json is written last)
        budget.sqlite3   what was spent, where the student costs money; validation-budget.sqlite3 on the one that validates
        tensorboard/     its events, where run.report_to names it
        evaluation.jsonl, report.html, report.md, report.json    every answer of the evaluation, and what it shows
        summary.json     written last of all: a run that has one is finished

TRL writes a checkpoint in place, so a killed run can leave half of one; only folders with the marker are ever read again.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import yaml

from exchange.command import RunError
from exchange.settings import SettingError, Settings, find_config, load, only, parse_flags, read_yaml, setting_docs
from store import Store, open_store
from tasks import TaskConfig
from teacher.config import RunConfig

COMPLETE = "complete"


class RunSettings(Protocol):
    """What a run directory needs of the settings it holds: a training run's, or a sister method's."""

    @property
    def run(self) -> RunConfig: ...
    @property
    def task(self) -> TaskConfig: ...
    @property
    def algorithm(self) -> str: ...
    @property
    def seed(self) -> int: ...
    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


def runs_dir() -> Path:
    """Where runs lie: WST_RUNS_DIR, default `runs`."""
    return Path(os.environ.get("WST_RUNS_DIR", "runs"))


def git_commit() -> str | None:
    """The commit of the checkout this code lies in, with -dirty where files differ; None outside a checkout."""
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or None if result.returncode == 0 else None


def mark_complete(folder: Path) -> None:
    """Declare a folder whole: everything in it is on disk before the marker appears."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    with (folder / COMPLETE).open("w") as marker:
        os.fsync(marker.fileno())


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that the file is the old one or the new one, never half of either."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


class RunDirectory:
    """Paths and bookkeeping of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.teacher = path / "teacher"

    @staticmethod
    def check_free(config: RunSettings) -> None:
        """Raises SettingError where the settings name a directory that holds a run already."""
        if config.run.dir is not None and (path := Path(config.run.dir) / "config.yaml").exists():
            raise SettingError(f"run.dir={config.run.dir!r}: holds a run already; go on with it by --resume={path.parent} or name another")

    @classmethod
    def create(cls, config: RunSettings, *, resumable: bool = True) -> RunDirectory:
        """A new directory holding the resolved config. Raises SettingError where it cannot be written or holds a run already.

        One that is `resumable` has its lock before its config, so that a run killed at any moment from there on is found.
        """
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        name = f"{stamp}-{config.task.name}-{config.algorithm}-s{config.seed}"
        path = Path(config.run.dir) if config.run.dir is not None else runs_dir() / name
        cls.check_free(config)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if config.run.dir is None and path.exists():
                path = path.with_name(f"{name}-{os.getpid()}")  # two runs started in one second
            path.mkdir(exist_ok=config.run.dir is not None)
            run = cls(path)
            run.checkpoints.mkdir(exist_ok=True)
            if resumable:
                (path / "lock").touch()
            run.write_config(config)
        except OSError as error:
            raise SettingError(f"run directory {path} cannot be written ({error.strerror}); set run.dir or WST_RUNS_DIR") from None
        return run

    def write_config(self, config: RunSettings) -> None:
        """Raises OSError."""
        text = yaml.safe_dump({**config.model_dump(mode="json"), "git_commit": git_commit()}, sort_keys=False)
        temporary = self.path / "config.yaml.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path / "config.yaml")

    def config(self) -> dict[str, Any]:
        """The resolved config as written, without the commit. Raises SettingError where this is no run directory."""
        if not (self.path / "config.yaml").is_file():
            raise SettingError(f"{self.path}: not a run directory (no config.yaml)")
        data = read_yaml(self.path / "config.yaml")
        data.pop("git_commit", None)
        return data

    def lock(self) -> IO[str]:
        """Hold the run for this process until the returned file is closed or the process ends. Raises SettingError where another has it."""
        stream = (self.path / "lock").open("w")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise SettingError(f"{self.path}: another process is working on this run") from None
        return stream

    def account_path(self, section: str = "") -> Path:
        """The file that spending is booked in: on the training student, or on that of a config section as `validation.`."""
        return self.path / f"{section.replace('.', '-')}budget.sqlite3"

    def account(self, section: str = "") -> Store:
        """Where spending is booked."""
        return open_store(str(self.account_path(section)))

    @property
    def finished(self) -> bool:
        return (self.path / "summary.json").exists()

    def last_checkpoint(self) -> tuple[int, Path] | None:
        """(step, folder) of the newest whole training checkpoint; None before the first."""
        whole = [p for p in self.checkpoints.glob("checkpoint-*") if (p / COMPLETE).exists()]
        steps = sorted((int(p.name.rpartition("-")[2]), p) for p in whole)
        return steps[-1] if steps else None

    def last_step(self) -> int:
        """The step of the newest whole checkpoint; 0 before the first."""
        found = self.last_checkpoint()
        return found[0] if found else 0

    @property
    def ended(self) -> str | None:
        """Why learning ended before its last step; None where it did not."""
        path = self.path / "ended.json"
        return str(json.loads(path.read_text(encoding="utf-8"))["reason"]) if path.exists() else None

    @property
    def filtered(self) -> dict[str, int] | None:
        """Counts of questions by what the warm start found of them; None before RL."""
        path = self.path / "filter.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def note_filter(self, counts: dict[str, int]) -> None:
        """Write the counts down for the summary."""
        write_json(self.path / "filter.json", counts)

    def end(self, reason: str) -> None:
        """Note that learning ended by itself, so that a resumed run does not begin it again."""
        write_json(self.path / "ended.json", {"step": self.last_step(), "reason": reason})

    def drop_after(self, step: int) -> None:
        """Forget what a killed process left beyond `step`: torn checkpoints, later lines of the logs, later best teachers."""
        for folder in self.checkpoints.iterdir():
            ours = folder.name == "warm_start" or folder.name.startswith(("checkpoint-", "best-"))
            torn = ours and folder.is_dir() and not (folder / COMPLETE).exists()
            if torn or (folder.name.startswith("best-") and int(folder.name.rpartition("-")[2]) > step):
                shutil.rmtree(folder)
        for name in ("metrics.jsonl", "episodes.jsonl", "validation.jsonl", "alarms.jsonl"):
            kept = [line for line in self.lines(name) if line["step"] <= step]
            if (self.path / name).exists():
                self.rewrite(name, kept)

    def rewrite(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Write a JSON-lines file so that it is the old one or the new one. Raises OSError."""
        temporary = self.path / (name + ".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        temporary.replace(self.path / name)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of a JSON-lines file of the run; a torn last line is left out."""
        path = self.path / name
        if not path.exists():
            return []
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
        return [json.loads(line) for line in whole.split("\n") if line]

    def curves(self) -> dict[str, tuple[tuple[int, float], ...]]:
        """(step, share) points of the learning curve: `training`, `validation`, and `second` where a second judge watches."""
        validation = self.lines("validation.jsonl")
        return {
            "training": tuple((line["step"], line["right_rate"]) for line in self.lines("metrics.jsonl") if "right_rate" in line),
            "validation": tuple((line["step"], line["right"]) for line in validation),
            "second": tuple((line["step"], line["second"]) for line in validation if "second" in line),
        }

    def append(self, name: str, *rows: dict[str, Any]) -> None:
        """Append lines to a JSON-lines file. Raises RunError where the disk refuses."""
        try:
            with (self.path / name).open("a", encoding="utf-8") as stream:
                stream.write("".join(json.dumps(row) + "\n" for row in rows))
        except OSError as error:
            raise RunError(
                f"{self.path / name} cannot be written ({error.strerror}); free space and go on with --resume={self.path}"
            ) from None


CLIENTS = ("student", "validation.student", *(f"{rubric}.judge.client" for rubric in ("reward", "reward.second")))
MAY_CHANGE = (
    "eval.arms", "eval.include", "eval.search_calls", "eval.transfer", "budget", "validation.budget", "ray",
    *(f"{client}.{key}" for client in CLIENTS for key in ("pacing", "timeout_s", "cache")),
    *(f"{rubric}.preference.{key}" for rubric in ("reward", "reward.second") for key in ("pacing", "timeout_s")),
)  # fmt: skip
"""Settings that change neither what is asked nor what is learnt, so a resumed run may have others: what an evaluation adds, what may be
spent, how the students and the judges are reached."""


def without_changeable(config: dict[str, Any], may_change: Sequence[str] = MAY_CHANGE) -> dict[str, Any]:
    """A resolved config without what may change and without where the run lies."""

    def left(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
        kept = {key: value for key, value in tree.items() if above + key not in ("run", *may_change)}
        return {key: left(value, f"{above}{key}.") if isinstance(value, dict) else value for key, value in kept.items()}

    return left(config)


def find_unfinished(config: RunSettings, may_change: Sequence[str] = MAY_CHANGE) -> RunDirectory:
    """The newest unfinished run with the same resolved config (what may change aside). Raises SettingError where there is none."""
    wanted = without_changeable(config.model_dump(mode="json"), may_change)
    for path in sorted(runs_dir().glob("*/config.yaml"), reverse=True):
        run = RunDirectory(path.parent)
        try:
            held = run.config()
        except SettingError:
            continue  # the damaged config of another run is no reason to stop this one
        # Only training has a lock: an evaluation that was broken off leaves a directory too.
        if not run.finished and (run.path / "lock").exists() and without_changeable(held, may_change) == wanted:
            return run
    raise SettingError(
        f"--resume: no unfinished run with these settings under {runs_dir()}; name one with --resume=RUN_DIR or leave it out"
    )


def unsaved_weights(error: Exception) -> str | None:
    """What safetensors or torch says of weights that cannot be read or written, in one line; None for any other error."""
    lines = str(error).strip().splitlines() or [""]
    known = type(error).__name__ == "SafetensorError" or "PytorchStreamWriter" in str(error) or "inline_container" in str(error)
    return lines[0] if known else None


Config = TypeVar("Config", bound=Settings)


def command_parser(program: str, about: str, config_class: type[Settings]) -> argparse.ArgumentParser:
    """The command line of whatever makes a run directory: a config, --resume, --dry-run; --help lists the settings."""
    epilog = "settings (also in a YAML file):\n" + "\n".join(
        f"  --{name}={default}\n      {text}" for name, default, text in setting_docs(config_class)
    )
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}", description=about, epilog=epilog, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("config", nargs="?", help="a YAML file, or the name of a shipped one; none = the lab world")
    parser.add_argument(
        "--resume", nargs="?", const="", metavar="RUN_DIR", help="go on with a run (default: the newest unfinished one with these settings)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and what the run would ask and cost, then stop")
    return parser


def asked_for(
    args: argparse.Namespace,
    rest: Sequence[str],
    config_class: type[Config],
    resolve: Callable[[Config], Config],
    may_change: Callable[[Path | None], Sequence[str]] = lambda _: MAY_CHANGE,
) -> tuple[Config, RunDirectory | None]:
    """(the resolved settings, the run to go on with) of such a command line; None = a new run. `may_change` names what a resumed run may
    have otherwise: of the run in a directory, or (None) of any. Raises SettingError."""
    if args.resume:
        if args.config is not None:
            raise SettingError(f"--resume={args.resume}: goes on with that run's own settings; leave {args.config} out")
        run = RunDirectory(Path(args.resume))
        held, allowed = run.config(), may_change(run.path)
        reason = f"a resumed run keeps its own settings; only {', '.join(allowed)} may change"
        return resolve(load(config_class, held, only(parse_flags(rest), allowed, reason=reason))), run
    data = read_yaml(find_config(args.config)) if args.config is not None else {}
    config = resolve(load(config_class, data, parse_flags(rest)))
    return config, find_unfinished(config, may_change(None)) if args.resume is not None else None  # type: ignore[arg-type]
