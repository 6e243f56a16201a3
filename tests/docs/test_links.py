"""No page points to a file, a heading or a config that is not there, and every page can be found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exchange.settings import CONFIGS, read_yaml
from tests.docs.pages import PAGES, blocks
from tests.requirements import ROOT

LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")
KNOWN_MARKS = {"not run here", "background", "needs"}


def anchors(page: Path) -> set[str]:
    """Its headings as links name them."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert wrong == []


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page() -> None:
    def files(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        below = entry if isinstance(entry, list) else list(entry.values()) if isinstance(entry, dict) else []
        return [file for part in below for file in files(part)]

    assert sorted(files(read_yaml(ROOT / "mkdocs.yml")["nav"])) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_configs_that_pages_name_are_shipped() -> None:
    shipped = {path.stem for path in CONFIGS.glob("*.yaml")}
    tasks = {name.rpartition("_")[0] for name in shipped}
    for page in PAGES:
        for name in re.findall(r"\b(\w+_(?:openai|vllm|grpo|\d+gb))\b", page.read_text(encoding="utf-8")):
            assert name in shipped or name.rpartition("_")[0] not in tasks, f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_said_above_a_block_is_understood(page: Path) -> None:
    for block in blocks(page):
        assert set(block.marks) <= KNOWN_MARKS, block.marks
        assert len(block.marks.get("not run here", "a reason")) > 5
        assert block.marks.get("needs", "data") in ("data", "modes")
    assert page.read_text(encoding="utf-8").count("```bash") == len(blocks(page)), "a fence that the pattern does not see"
