"""The project's own source, read and not imported: its files, what each imports and how deep, its commands. For the structural tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from tests.requirements import ROOT

ORDER = (
    "exchange",
    "store",
    "tasks",
    "lab",
    "student_clients",
    "rewards",
    "evaluation",
    "teacher",
    "weak_to_strong",
    "server",
    "sdk",
    "benchmarks",
)
"""Lowest first: a package imports only what stands before it (docs/architecture.md)."""

Depth = Literal["module", "function", "typing"]


@dataclass(frozen=True)
class Import:
    """One imported name as a dotted path (`from lab import pretrain` is `lab.pretrain`), and when the import happens."""

    module: str
    line: int
    depth: Depth

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def python_files(*folders: str) -> list[str]:
    """The .py files below these folders of the repository, as sorted POSIX paths relative to it."""
    return sorted(p.relative_to(ROOT).as_posix() for folder in folders for p in (ROOT / folder).rglob("*.py"))


@cache
def tree_of(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), filename=file)


@cache
def imports_of(file: str) -> tuple[Import, ...]:
    return tuple(_imports(tree_of(file), file, "module"))


def _imports(node: ast.AST, file: str, depth: Depth) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, depth) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            package = Path(file).parent.parts[: len(Path(file).parent.parts) - child.level + 1] if child.level else ()
            base = ".".join([*package, *([child.module] if child.module else [])])
            yield from (Import(f"{base}.{alias.name}", child.lineno, depth) for alias in child.names)
        elif isinstance(child, ast.Call) and _name(child.func) in ("import_module", "__import__") and child.args:
            yield from (Import(str(name.value), child.lineno, depth) for name in child.args[:1] if isinstance(name, ast.Constant))
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            # Defaults and decorators count as inside, though they run with the module: nobody imports in one.
            yield from _imports(child, file, "function")
        elif isinstance(child, ast.If) and _name(child.test) == "TYPE_CHECKING":
            for statement in child.body:
                yield from _imports(ast.Module([statement], []), file, "typing")
            for statement in child.orelse:
                yield from _imports(ast.Module([statement], []), file, depth)
        else:
            yield from _imports(child, file, depth)


def _name(node: ast.expr) -> str:
    """`f` of `f` and of `x.y.f`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def is_command(file: str) -> bool:
    """Whether `python -m` runs it: it compares `__name__` with `"__main__"`."""
    return any(
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and _name(node.test.left) == "__name__"
        and [c.value for c in node.test.comparators if isinstance(c, ast.Constant)] == ["__main__"]
        for node in tree_of(file).body
    )


def commands() -> dict[str, str]:
    """What stands after `python -m` -> its file, for every command of our packages."""
    found = [file for file in python_files(*ORDER) if is_command(file)]
    return {file.removesuffix(".py").replace("/", ".").removesuffix(".__main__"): file for file in found}
