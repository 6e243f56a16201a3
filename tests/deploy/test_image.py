"""The image's steps by hand, where there is no Docker: each RUN of the Dockerfile in a clean root, then the server as its user, read-only.

The same installation answers for the wheel: everything that a user needs is inside, and the packages are exactly ours.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.requirements import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="a clean root needs root's rights and unshare"),
]
SCRIPT = ROOT / "tests" / "deploy" / "clean_root.sh"
HOST = "127.0.0.1"
QUERY = "Ruth has 8 stamps but needs 47. How many stamps are missing?"


@dataclass
class Stage:
    """One FROM of the Dockerfile."""

    runs: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    """WORKDIR, USER, ENTRYPOINT, CMD, STOPSIGNAL as they are written."""


def stages() -> dict[str, Stage]:
    text = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    found: dict[str, Stage] = {"": Stage()}
    now = found[""]
    for line in filter(None, map(str.strip, text.splitlines())):
        word, rest = line.split(" ", 1)
        if word == "FROM":
            now = found.setdefault(rest.split(" AS ")[1], Stage())
        elif word == "RUN":
            now.runs.append(rest)
        elif word == "ENV":
            now.environment |= dict(re.findall(r"(\w+)=(\S+)", rest))
        elif word == "ARG":
            name, _, value = rest.partition("=")
            now.arguments[name] = value
        elif word not in ("COPY", "VOLUME", "EXPOSE", "HEALTHCHECK"):
            now.settings[word] = rest
    return found


class CleanRoot:
    """A root of our own, gone with the test."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        (self.root / "src").mkdir(parents=True)
        (folder / "root.ro").mkdir()
        self.python = Path(sys.base_prefix)
        shim = self.root / "python" / "bin"
        shim.mkdir(parents=True)
        if not (self.python / "bin" / "python").exists():  # Debian's own Python has no such name, the image's has
            (shim / "python").symlink_to(sys.base_prefix + "/bin/python3")
        self.path = f"{self.python}/bin:/python/bin:/usr/local/bin:/usr/bin:/bin"
        for parent in [self.root, folder, folder.parent]:
            parent.chmod(0o755)

    def command(self, stage: str, user: str, workdir: str, environment: dict[str, str], *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["unshare", "--mount", "sh", str(SCRIPT), str(self.root), str(self.python), stage, user, *command],
            env={**environment, "WORKDIR": workdir}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def copy(self) -> None:
        """`COPY . .`: what .dockerignore lets through."""
        names = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
        for source in (ROOT / name for name in names):
            target = self.root / "src" / source.name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy(source, target)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> CleanRoot:
    """The built image: every RUN of the build stage, with pip's own sources in place of the CPU index, then those of the final one."""
    root = CleanRoot(tmp_path_factory.mktemp("image"))
    root.copy()
    build, run = stages()["build"], stages()["run"]
    pip = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
    environment = {"PATH": root.path, "HOME": "/root", "TORCH_INDEX": "", **pip}
    for stage, settings in ((build, environment), (run, {"PATH": root.path})):
        for line in stage.runs:
            process = root.command("build", "0:0", "/src", settings, "sh", "-c", line)
            output = process.communicate(timeout=900)[0]
            assert process.returncode == 0, f"RUN {line}\n{output[-3000:]}"
    return root


def in_image(image: CleanRoot, *command: str, **more: str) -> subprocess.Popen[str]:
    """`docker run --read-only` with the image's user and environment."""
    final = stages()["run"]
    path = f"{final.environment['PATH']}:{image.path}"
    environment = {**final.environment, "PATH": path, "HF_HUB_OFFLINE": "1", **more}
    return image.command("run", final.settings["USER"], final.settings["WORKDIR"], environment, *command)


def output(process: subprocess.Popen[str], code: int = 0) -> str:
    text = process.communicate(timeout=600)[0]
    assert process.returncode == code, text[-3000:]
    return text


@pytest.fixture
def keys(image: CleanRoot) -> Iterator[str]:
    """A key of the server, made by the image's own command."""
    said = output(in_image(image, "python", "-m", "server.keys", "--keys", "/data/keys.json", "create", "--tenant", "app"))
    yield re.findall(r"wst_\S+", said)[0]
    (image.root / "data" / "keys.json").unlink()


def test_packages_are_exactly_ours_and_hold_weights_templates_and_configs(image: CleanRoot) -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    (wheel,) = (image.root / "src" / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {name for name in named if (ROOT / name).is_dir()}
    tracked = subprocess.run(["git", "ls-files", *named], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    assert [name for name in tracked if name and (ROOT / name).is_file() and name not in names] == []


def test_without_keys_the_image_does_not_open_its_port(image: CleanRoot) -> None:
    assert "keys" in output(in_image(image, "python", "-m", "server", "--check"), code=2)


def test_the_server_answers_as_a_user_who_can_write_nowhere_else(image: CleanRoot, keys: str, free_port: int) -> None:
    final = stages()["run"]
    command = [*json.loads(final.settings["ENTRYPOINT"]), *json.loads(final.settings["CMD"])]
    process = in_image(image, *command, WST_KEYS="/data/keys.json", WST_HOST=HOST, WST_PORT=str(free_port), WST_DEADLINE_MS="60000")
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("serving teacher"):
                break
        assert lines and lines[-1].startswith("serving teacher"), lines
        status = Path(f"/proc/{process.pid}/status").read_text()  # unshare, sh, chroot and env all became the server
        assert re.search(r"^Uid:\s+10001\s+10001", status, re.MULTILINE)
        request = urllib.request.Request(
            f"http://{HOST}:{free_port}/instruct", json.dumps({"query": QUERY}).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {keys}"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert json.load(reply)["source"] in ("teacher", "silence")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGTERM)  # uvicorn ends its work and then dies of the signal
    finally:
        process.kill()
        process.wait()


def test_the_root_is_read_only_and_the_data_is_not(image: CleanRoot) -> None:
    said = output(in_image(image, "sh", "-c", "touch /opt/wst/x /usr/x /x /src/x; touch /data/x /tmp/x && id -u"))
    assert said.count("Read-only file system") + said.count("Permission denied") == 4 and said.strip().endswith("10001")


def test_a_dry_run_and_a_short_training_from_an_empty_folder(image: CleanRoot) -> None:
    assert '"student_calls_at_most"' in output(in_image(image, "python", "-m", "teacher.train", "--dry-run"))
    assert "single_gpu_24gb" in output(in_image(image, "python", "-m", "teacher.train", "nowhere.yaml"), code=2)
    started = time.time()
    said = output(in_image(
        image, "python", "-m", "teacher.train", "--max_steps=2", "--teacher.warm_start.questions=30", "--teacher.warm_start.samples=4",
        "--trl.per_device_train_batch_size=24", "--task.validation_size=20", "--eval.n=20", "--eval.every=1", "--eval.include=[]",
    ))  # fmt: skip
    assert "trained" in said and time.time() - started < 300
    (run,) = (image.root / "data" / "runs").glob("*-lab_arithmetic-grpo-s0")
    assert json.loads((run / "summary.json").read_text())["eval"]["n"] == 20 and (run / "report.html").is_file()
