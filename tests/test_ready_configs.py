"""Every shipped config passes `--dry-run`, and the table of the documentation is what the dry runs say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docs.make_costs import CONFIGS, costs_of, table
from tests.requirements import ROOT, need

COSTS = ROOT / "docs" / "costs.md"


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    need("data")
    return costs_of(tmp_path_factory.mktemp("costs"))


def test_every_shipped_config_is_tried() -> None:
    assert sorted(CONFIGS) == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


def test_every_dry_run_says_calls_tokens_dollars_and_memory(costs: dict[str, dict[str, object]]) -> None:
    for name, cost in costs.items():
        assert cost["student_calls_at_most"]["total"] > 1000, name
        assert cost["memory_gib"]["teacher"] is not None, name
        assert (cost["usd_about"] > 0) == name.endswith("_openai"), name
        assert "would not start" not in json.dumps(cost), name


def test_single_card_configs_fit_their_cards(costs: dict[str, dict[str, object]]) -> None:
    for name in ("single_gpu_24gb", "single_gpu_48gb", "single_gpu_80gb"):
        memory = costs[name]["memory_gib"]
        assert memory["fits"] is True and memory["total"] <= memory["card"] - 1, name


def test_the_table_in_the_documentation_is_what_the_dry_runs_say(costs: dict[str, dict[str, object]]) -> None:
    assert table(costs) in COSTS.read_text(encoding="utf-8"), "run `python docs/make_costs.py`"


def test_a_card_that_is_too_small_is_said_so(tmp_path: Path, data_dir: Path) -> None:
    small = costs_of(tmp_path, {"single_gpu_80gb": ["--run.gpu_gib=24"]})["single_gpu_80gb"]["memory_gib"]
    assert small["fits"] is False and small["total"] > small["card"] == 24
