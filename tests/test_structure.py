"""The shape of the source: who imports whom, where the heavy libraries may be named, how long a file is, what may be committed."""

from __future__ import annotations

import ast
import re
import subprocess

import pytest

from tests.requirements import ROOT, need
from tests.source_tree import ORDER, Import, imports_of, is_command, python_files, tree_of

LIBRARIES = [package for package in ORDER if package != "benchmarks"]
"""Benchmarks measure the rest: they import anything, and nobody imports them."""

LEARNING = ("lab/", "teacher/", "weak_to_strong/", "rewards/preference", "rewards/train_preference", "student_clients/embedded")
MAY_IMPORT = {
    "torch": LEARNING,
    "transformers": LEARNING,
    "trl": LEARNING,
    "peft": LEARNING,
    "accelerate": LEARNING,
    "datasets": (*LEARNING, "tasks/"),
    "vllm": (),  # reached over HTTP, and through TRL's use_vllm
    "openai": ("student_clients/openai_compatible.py",),
    "redis": ("store/",),
    "ray": ("student_clients/bulk",),
    "fastapi": ("server/",),
    "starlette": ("server/",),
    "uvicorn": ("server/",),
}
"""Library -> the beginnings of the paths that may import it."""

ONLY_IN_FUNCTIONS = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "ray")
"""Seconds to import: never on the way to `--help`."""

SUBCLASSES_OF_TRL: tuple[str, ...] = ()
"""Files that import the learning libraries at module level, because a class of theirs derives from one of TRL's."""

# Written in two halves, so that this file does not hold what it looks for.
REGISTRY_HOSTS = re.compile(rb"py" rb"pi\.org|python" rb"hosted\.org|registry\.npm" rb"js|deb\.deb" rb"ian")
MACHINE_PATHS = re.compile(rb"(?:^|[^A-Za-z0-9_.])/(?:wo" rb"rk|fa" rb"rm)/", re.MULTILINE)
MOST_BYTES = 4_000_000


def stands_on_top(file: str) -> bool:
    """A lab command, like a benchmark, uses whatever it measures or makes."""
    return file.startswith("lab/") and is_command(file)


def ordinary_files() -> list[str]:
    return [file for file in python_files(*LIBRARIES) if not stands_on_top(file)]


def at(file: str, found: Import) -> str:
    return f"{file}:{found.line} imports {found.module}"


def may_import(package: str, other: str) -> bool:
    if (package, other) == ("server", "weak_to_strong"):
        return False
    return ORDER.index(other) <= ORDER.index(package)


def test_a_package_imports_only_what_stands_below_it() -> None:
    wrong = [
        at(file, found)
        for file in ordinary_files()
        for found in imports_of(file)
        if found.top in ORDER and not may_import(file.partition("/")[0], found.top)
    ]
    assert wrong == [], f"the order is {' < '.join(ORDER)}, and server does not import weak_to_strong"


def test_nobody_imports_tests_examples_or_a_command_that_stands_on_top() -> None:
    commands = [file.removesuffix(".py").replace("/", ".") for file in python_files("lab") if stands_on_top(file)]
    wrong = [
        at(file, found)
        for file in python_files(*LIBRARIES)
        for found in imports_of(file)
        if found.top in ("tests", "examples") or any(f"{found.module}.".startswith(f"{command}.") for command in commands)
    ]
    assert wrong == []


def test_outside_libraries_are_imported_only_at_their_seam() -> None:
    wrong = [
        at(file, found)
        for file in ordinary_files()
        for found in imports_of(file)
        if found.top in MAY_IMPORT and not file.startswith(MAY_IMPORT[found.top])
    ]
    assert wrong == []


def test_the_learning_libraries_are_imported_inside_functions() -> None:
    wrong = [
        at(file, found)
        for file in python_files(*LIBRARIES)
        if file not in SUBCLASSES_OF_TRL
        for found in imports_of(file)
        if found.top in ONLY_IN_FUNCTIONS and found.depth == "module"
    ]
    assert wrong == [], "move these into the functions that use them, or under `if TYPE_CHECKING:`"


def test_files_excused_for_deriving_from_trl_do_derive_from_it() -> None:
    for file in SUBCLASSES_OF_TRL:
        from_trl = {found.module.rpartition(".")[2] for found in imports_of(file) if found.top == "trl" and found.depth == "module"}
        classes = [node for node in tree_of(file).body if isinstance(node, ast.ClassDef)]
        assert from_trl & {base.id for node in classes for base in node.bases if isinstance(base, ast.Name)}, file


def test_files_and_functions_are_short() -> None:
    wrong = []
    for file in python_files(*ORDER):
        lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
        if lines > 350:
            wrong.append(f"{file}: {lines} lines (at most 350: is it two things?)")
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 80:
                    wrong.append(f"{file}:{node.lineno} {node.name}: {length} lines (at most 80)")
    assert wrong == []


def test_every_module_says_why_it_exists() -> None:
    files = python_files(*ORDER, "examples", "tests")
    wrong = [file for file in files if tree_of(file).body and not ast.get_docstring(tree_of(file))]
    assert wrong == [], "these need a module docstring"


def test_what_git_holds_is_small_and_names_no_host_or_path_of_a_machine() -> None:
    git = need("git")
    listing = subprocess.run([git, "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    wrong = []
    for name in listing.stdout.decode().split("\0"):
        path = ROOT / name
        if not path.is_file():  # the empty end of the list, or deleted and not yet committed
            continue
        content = path.read_bytes()
        if len(content) > MOST_BYTES:
            wrong.append(f"{name}: {len(content)} bytes, more than {MOST_BYTES}")
        if b"\0" in content:
            continue
        wrong += [f"{name}: names a package registry's host" for _ in REGISTRY_HOSTS.findall(content)]
        wrong += [f"{name}: names a path of one machine" for _ in MACHINE_PATHS.findall(content)]
    assert wrong == []
