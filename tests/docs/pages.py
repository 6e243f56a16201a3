"""The documentation's pages, their fenced commands, and what a comment above a fence says of it.

<!-- not run here: why -->    the test leaves it out
<!-- background: 8000 -->     it is started and goes on; the next block waits until the port answers
<!-- needs: data -->          left out where the data sets (`modes`: that part of the server) are not there
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.requirements import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"(?:^<!-- (?P<marks>[^\n]*?) -->\n)?^```bash\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block of shell commands."""

    code: str
    marks: dict[str, str]


def blocks(page: Path) -> list[Block]:
    """The page's shell commands in their order."""
    found = []
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        marks = dict(part.split(": ", 1) for part in (match["marks"] or "").split("; ") if ": " in part)
        found.append(Block(match["code"], marks))
    return found
