"""The format gate: an instruction that is not made of whole, printable sentences does not pay, whatever the student made of it.

Without it RL finds loose words that nudge a student (one trial found the bare word "carry"), which no reader could check and no other
student would follow. The gate follows Prompt-R1 (arXiv 2511.01016): correctness counts only where the format is whole.
"""

from __future__ import annotations

import re

from exchange.records import Instruction

_END = re.compile(r"""(?<=[.!?。！？])["'”’)\]`]*(?=\s|$)""")
_NUMBERED = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+", re.MULTILINE)


def well_formed(instruction: Instruction) -> bool:
    """Silence is well-formed; a text is where the teacher ended it itself, it is printable, starts like a sentence (not in lower case),
    ends like one, says more than a word, and repeats no sentence. Numbers and bullets of a list are no sentences."""
    text = instruction.text
    if not text:
        return not instruction.truncated
    if instruction.truncated or text != text.strip():
        return False
    if any(not (character.isprintable() or character == "\n") for character in text):
        return False
    spoken = _NUMBERED.sub("", text)
    sentences = [sentence.strip() for sentence in _END.split(spoken)]
    if sentences.pop():  # what follows the last end of a sentence
        return False
    starts_low = spoken[:1].islower()
    return not starts_low and len(set(sentences)) == len(sentences) and any(len(s.split()) >= 2 or not s.isascii() for s in sentences)
