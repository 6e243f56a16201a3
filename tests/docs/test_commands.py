"""Every fenced command of README and docs is run, page by page in one shell, in a folder that looks like a fresh checkout."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import unused_port
from tests.docs.pages import PAGES, Block, blocks
from tests.environments import clean, make_environment
from tests.requirements import ROOT, need

pytestmark = pytest.mark.slow
FEW = (
    "--max_steps=2 --eval.every=1 --eval.n=20 --eval.include=[] --task.validation_size=20 --teacher.warm_start.questions=20 "
    "--teacher.warm_start.samples=4 --trl.per_device_train_batch_size=24"
)
INSTEAD = {
    "make demo": f'make demo ARGS="{FEW}"',  # whole in tests/test_demo.py
    ".venv/bin/python examples/ab_app.py http://localhost:8000 student first 200": (
        ".venv/bin/python examples/ab_app.py http://localhost:8000 student first 20"  # to its verdict in tests/examples
    ),
    "make test": "make -n test",  # this is one of them
    "make test-slow": "make -n test-slow",
    "make check": "make -n check",
    "python -m teacher.train lab_alignment_grpo": f"python -m teacher.train lab_alignment_grpo {FEW}",  # whole in test_train_alignment.py
}
"""Lines that a test runs shorter, and where the whole is run."""
BEFORE = """set -euo pipefail
curl() { command curl --fail-with-body --max-time 120 "$@"; }
answers() { for _ in $(seq 600); do (exec 3<>/dev/tcp/127.0.0.1/$1) 2>/dev/null && return; sleep 0.2; done; cat background.log; exit 1; }
"""


def available(block: Block) -> bool:
    what = block.marks.get("needs")
    if what == "data":
        need("data")
    return "not run here" not in block.marks and (what != "modes" or (ROOT / "server" / "routes_modes.py").exists())


def script(page: Path) -> tuple[str, dict[str, str]]:
    """The page as one script, and the ports that its own stand for."""
    text = BEFORE
    ports = {port: str(unused_port()) for port in ("8000", "8100")}
    for block in filter(available, blocks(page)):
        lines = [INSTEAD.get(re.sub(r"\s+#.*$", "", line).strip(), line) for line in block.code.splitlines()]
        code = "\n".join(lines)
        for port, free in ports.items():
            code = re.sub(rf"(?<!\d){port}(?!\d)", free, code)
        if "background" in block.marks:
            code = f"{{\n{code}\n}} >>background.log 2>&1 &\nanswers {ports[block.marks['background']]}"
        text += f"echo '$' {shlex.quote(lines[0])}\n{code}\n"
    return text, ports


def checkout(folder: Path) -> Path:
    """A folder that looks like a fresh checkout with its environment set up."""
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in {line.partition("/")[0] for line in tracked.splitlines()}:
        (folder / name).symlink_to(ROOT / name)
    if not (folder / ".venv").exists():
        (folder / ".venv").symlink_to(Path(sys.prefix))
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if any("not run here" not in b.marks for b in blocks(page))], ids=lambda p: p.name)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    text, ports = script(page)
    if "curl" in text.removeprefix(BEFORE):
        need("curl")
    environment = clean(
        # The environment is set up; a make that thinks otherwise would install from here.
        MAKEFLAGS="-o .venv/.done",
        WST_PORT=ports["8000"],
        WST_DEADLINE_MS="60000",
        WST_DATA_DIR=os.environ.get("WST_DATA_DIR", ""),
    )
    process = subprocess.Popen(
        ["bash", "-c", text], cwd=checkout(tmp_path), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=900)
    finally:
        with suppress(ProcessLookupError):  # nothing went on in the background
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output[-4000:]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    requirements = (ROOT / "docs" / "requirements.txt").read_text(encoding="utf-8").split()
    tools = make_environment(tmp_path / "venv", *requirements)
    done = subprocess.run(
        [str(tools / "mkdocs"), "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env=clean(NO_MKDOCS_2_WARNING="1"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "quickstart" / "index.html").exists()
