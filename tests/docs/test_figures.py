"""Figures that a page quotes from benchmarks/results are those of the file."""

import json

from tests.requirements import ROOT


def test_the_capacity_note_quotes_what_was_measured() -> None:
    headline = json.loads((ROOT / "benchmarks" / "results" / "service_overhead.json").read_text(encoding="utf-8"))["headline"]
    text = (ROOT / "docs" / "capacity.md").read_text(encoding="utf-8")
    assert f"{headline['cpu_ms_per_request']['service']} ms of CPU a request" in text, "docs/capacity.md quotes an older measurement"
    assert f"{headline['rps_on_an_own_core']:,} requests a second on a core" in text
