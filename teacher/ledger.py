"""What a run asked of its student and its judges, and how long it took, over all processes that worked on it."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

from student_clients import CountingStudent
from teacher.run_directory import RunDirectory, write_json


class Ledger:
    """The student's counts and the wall time over all processes of a run, kept on disk as the run goes."""

    def __init__(
        self, run: RunDirectory, student: CountingStudent, judges: dict[str, CountingStudent], *, validation: CountingStudent | None = None
    ) -> None:
        """`validation`: the student that validates, where it is another one."""
        self.path = run.path / "ledger.json"
        self.student = student
        self.judges = judges
        self.validation = validation
        self.started = time.monotonic()
        self.before: dict[str, Any] = {}
        self.validated_before: dict[str, Any] = {}
        self.judged_before: dict[str, dict[str, Any]] = {}
        self.wall_before_s = 0.0
        if self.path.exists():
            before = json.loads(self.path.read_text(encoding="utf-8"))
            self.before, self.wall_before_s = before["student"], before["wall_s"]
            self.judged_before = before.get("judges", {})
            self.validated_before = before.get("validation_student", {})

    def counts(self) -> dict[str, Any]:
        return {key: self.before.get(key, 0) + value for key, value in self.student.stats.as_dict().items()}

    def asked(self) -> dict[str, int]:
        """Calls so far, and requests: those that a cache or an equal request in flight answered too."""
        counts = self.counts()
        return {"calls": counts["calls"], "requests": counts["calls"] + counts["cache_hits"]}

    def judges_counts(self) -> dict[str, Any]:
        """A block `judges` for the summary; empty where no judge is a client that is called."""
        counts = {
            name: {key: self.judged_before.get(name, {}).get(key, 0) + value for key, value in client.stats.as_dict().items()}
            for name, client in self.judges.items()
        }
        return {"judges": counts} if counts else {}

    def validation_counts(self) -> dict[str, Any]:
        """A block `validation_student` for the summary; empty where the training student validates."""
        if self.validation is None:
            return {}
        counts = {key: self.validated_before.get(key, 0) + value for key, value in self.validation.stats.as_dict().items()}
        return {"validation_student": counts}

    def wall_s(self) -> float:
        return round(self.wall_before_s + time.monotonic() - self.started, 1)

    def save_if_possible(self) -> None:
        """At the end of a run, which may end because the disk is full: what ended it is what is to be told."""
        with contextlib.suppress(OSError):
            self.save()

    def save(self) -> None:
        write_json(self.path, {"student": self.counts(), **self.validation_counts(), **self.judges_counts(), "wall_s": self.wall_s()})
