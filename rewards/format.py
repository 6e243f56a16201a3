"""The format gate: an instruction that is not made of whole, printable sentences does not pay, whatever the student made of it.

Without it RL finds loose words that nudge a student (one trial found the bare word "carry"), which no reader could check and no other
student would follow. The gate follows Prompt-R1 (arXiv 2511.01016): correctness counts only where the format is whole.
"""

from __future__ import annotations

import re

from exchange.records import Instruction

_SENTENCE = re.compile(r"[^.!?]+[.!?]+")


def well_formed(instruction: Instruction) -> bool:
    """Silence is well-formed; a text is where it was ended by the teacher itself, is printable, starts like a sentence, ends like
    one, has at least two words a sentence, and repeats no sentence."""
    text = instruction.text
    if not text:
        return not instruction.truncated
    if instruction.truncated or text != text.strip() or not (text[0].isupper() or text[0].isdigit()) or text[-1] not in ".!?`":
        return False
    if any(not (character.isprintable() or character == "\n") for character in text):
        return False
    sentences = [sentence.strip() for sentence in _SENTENCE.findall(text)]
    return len(set(sentences)) == len(sentences) and all(len(sentence.split()) >= 2 for sentence in sentences)
