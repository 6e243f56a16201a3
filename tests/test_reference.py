"""docs/reference.md names every setting, command, route and metric: what a reader cannot find there does not exist for them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import cache

from exchange.settings import setting_docs
from server.settings import ServerSettings, variable
from teacher.config import TrainConfig
from tests.requirements import ROOT
from tests.source_tree import ORDER, commands, python_files, tree_of
from weak_to_strong.direct import DirectConfig
from weak_to_strong.misfit import MisfitConfig
from weak_to_strong.two_stage_config import TwoStageConfig
from weak_to_strong.w2sr_config import W2SRConfig

VERBS = ("get", "post", "put", "patch", "delete", "head", "websocket", "api_route", "add_api_route", "mount")


@cache
def reference() -> str:
    return (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


def unnamed(names: Iterable[str]) -> list[str]:
    """Those that the page does not hold as a word of its own (`eval.n` is not in `eval.name`, `n` not in `eval.n`)."""
    return [name for name in names if not re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w/-]|\.\w)", reference())]


def strings(node: ast.AST) -> list[str]:
    return [child.value for child in ast.walk(node) if isinstance(child, ast.Constant) and isinstance(child.value, str)]


def routes(file: str) -> list[str]:
    """The paths of `@router.get("/x")` and the like in one file, an `APIRouter(prefix=…)` of the same file put before them."""
    calls = [node for node in ast.walk(tree_of(file)) if isinstance(node, ast.Call)]
    prefix = "".join(
        text
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "APIRouter"
        for keyword in call.keywords
        if keyword.arg == "prefix"
        for text in strings(keyword.value)
    )
    paths = [
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr in VERBS and call.args and isinstance(call.args[0], ast.Constant)
    ]
    return [prefix + path for path in paths if isinstance(path, str) and (path.startswith("/") or (prefix and not path))]


def metrics() -> set[str]:
    """Names in the server's `/metrics` (they begin with `wst_`), given to `log_metric`, or returned by a function called …_rates."""
    found = {text for file in python_files("server") for text in strings(tree_of(file)) if re.fullmatch(r"wst_[a-z0-9_]+", text)}
    for file in python_files(*ORDER):
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "log_metric":
                found.update(strings(node.args[0]))
            elif isinstance(node, ast.FunctionDef) and node.name.endswith("_rates"):
                tables = [statement.value for statement in ast.walk(node) if isinstance(statement, ast.Return)]
                found.update(text for table in tables if isinstance(table, ast.Dict) for key in table.keys if key for text in strings(key))
    return found


def test_every_setting_of_a_run_is_documented() -> None:
    assert unnamed(name for name, _, _ in setting_docs(TrainConfig)) == []


def test_every_setting_of_w2sr_is_documented() -> None:
    for config in (W2SRConfig, TwoStageConfig, DirectConfig, MisfitConfig):
        assert unnamed(name for name, _, _ in setting_docs(config)) == []


def test_every_setting_of_the_server_is_documented() -> None:
    assert unnamed(variable(name) for name, _, _ in setting_docs(ServerSettings)) == []


def test_every_command_is_documented() -> None:
    assert [name for name in commands() if not re.search(rf"python -m {re.escape(name)}(?![\w.]*\w)", reference())] == []


def test_every_route_is_documented() -> None:
    assert unnamed(sorted({path for file in python_files("server") for path in routes(file)})) == []


def test_every_metric_is_documented() -> None:
    assert unnamed(sorted(metrics())) == []
