"""The teacher's prompt: a template with a slot for the query, in the three-step variant one for the student's draft, and its version."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from exchange.records import Message, PublicExample
from exchange.settings import SettingError

TEMPLATES = Path(__file__).parent / "templates"
HIDDEN = "(hidden)"
"""What a blind teacher sees in place of every query and draft."""
SLOTS = re.compile(r"(\{query\}|\{draft\})")


@dataclass(frozen=True)
class TeacherPrompt:
    """Builds the conversation a teacher answers with its instruction."""

    template: str
    blind: bool = False

    @classmethod
    def named(cls, name: str, *, blind: bool = False, drafts: bool = False) -> TeacherPrompt:
        """From a template file: a path, or the name of a shipped one; `drafts`: one that shows the student's draft.

        Raises SettingError where it is missing or its slots are not those.
        """
        path = TEMPLATES / f"{name}.txt" if (TEMPLATES / f"{name}.txt").is_file() else Path(name)
        if not path.is_file():
            shipped = ", ".join(sorted(p.stem for p in TEMPLATES.glob("*.txt")))
            raise SettingError(f"teacher.template={name!r}: no such file; shipped templates: {shipped}")
        try:
            text = path.read_text(encoding="utf-8").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise SettingError(f"teacher.template={name!r}: not UTF-8 text ({error.reason})") from None
        if text.count("{query}") != 1:
            raise SettingError(f"teacher.template={name!r}: the template must hold {{query}} exactly once")
        if text.count("{draft}") != drafts:
            wanted = "hold {draft} exactly once with variant=three_step" if drafts else "not hold {draft} with variant=two_step"
            raise SettingError(f"teacher.template={name!r}: the template must {wanted}")
        return cls(text, blind)

    @property
    def drafts(self) -> bool:
        """Whether it shows the student's draft, without which such a teacher has nothing to say."""
        return "{draft}" in self.template

    @property
    def version(self) -> str:
        """sha256 of the template's file."""
        return hashlib.sha256(f"{self.template}\n".encode()).hexdigest()

    def messages(self, example: PublicExample) -> list[Message]:
        """History as it is, then the filled template as the user's turn. The app's system prompt is for the student alone."""
        # By position, so that no text can be mistaken for a slot.
        shown = {"{query}": HIDDEN if self.blind else example.query, "{draft}": HIDDEN if self.blind else example.draft or ""}
        history = [] if self.blind else list(example.history)
        return [*history, Message(role="user", content="".join(shown.get(part, part) for part in SLOTS.split(self.template)))]
