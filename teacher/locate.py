"""Which teacher is meant: the flag or WST_TEACHER, else the newest run with a complete teacher, else the shipped one."""

from __future__ import annotations

import os
from pathlib import Path

from exchange.settings import SettingError
from lab.weights_folder import weights_dir
from teacher.folder import MANIFEST, read_manifest
from teacher.run_directory import runs_dir


def find_teacher(flag: str | None = None) -> Path:
    """The teacher folder to load. `flag` may name the folder itself or its run directory. Raises SettingError where there is none."""
    named = flag or os.environ.get("WST_TEACHER")
    if named:
        for folder in (Path(named), Path(named) / "teacher"):
            if (folder / MANIFEST).is_file():
                return folder
        raise SettingError(f"teacher {named!r}: holds no {MANIFEST}; give a run directory or its teacher/ folder")
    for manifest in sorted(runs_dir().glob(f"*/teacher/{MANIFEST}"), reverse=True):
        facts = read_manifest(manifest.parent)
        # A blind control, or one that the server could not ask, is taken where it is named, never found.
        if not facts["blind"] and facts.get("variant", "two_step") == "two_step":
            return manifest.parent
    shipped = weights_dir("arithmetic") / "trained_teacher"
    if (shipped / MANIFEST).is_file():
        return shipped
    raise SettingError(f"no trained teacher under {runs_dir()} and none shipped; train one with `python -m teacher.train`")
