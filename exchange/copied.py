"""Whether a text repeats another one: the same letters in the same order, whatever they are dressed in.

Compared are letters and digits alone, in one case, without accents, look-alikes taken for what they look like: spaces between letters,
zero-width characters, Cyrillic twins, full-width forms and leetspeak hide nothing. Forwards, backwards and in rot13.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Sequence

LONGEST_RUN = 48
"""Letters and digits in a row (about nine English words) that a text may not share with another."""
SHORTEST_RUN = 12
"""A shorter run is no repetition, even where it is half of the text: names and numbers come back in good advice."""

_LOOK_ALIKES = str.maketrans(
    "аеорсухіѕјһԁԛԝӏтнкмвгАВЕКМНОРСТУХІЅЈαοριυκτεΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "aeopcyxisjhdqwltnkmbrABEKMHOPCTYXISJaopiukteABEZHIKMNOPTYX",
)
_LEET = str.maketrans("013457", "oieast")
_NO_LETTER = re.compile(r"[\W_]+")
_IDEOGRAPH = re.compile("([\u2e80-\ua4cf\uf900-\ufaff\U00020000-\U0003ffff])")


def revealed(text: str) -> str:
    """The text as a reader sees it: compatibility forms and look-alikes as what they look like, without marks and format characters."""
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFKD", text).translate(_LOOK_ALIKES)
    return "".join(c for c in decomposed if unicodedata.category(c) not in ("Mn", "Me", "Cf"))


def letters(text: str) -> str:
    """What is compared."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).translate(_LOOK_ALIKES)
        text = _IDEOGRAPH.sub(r"\1\1\1", text)  # one says as much as a few letters
    return _NO_LETTER.sub("", text).casefold().translate(_LEET)


def copies(text: str, sources: Sequence[str]) -> bool:
    """Whether `text` shares a run of `LONGEST_RUN` letters with the sources, or one of at least half of its own length.

    Linear in the sources for texts of bounded length.
    """
    said = letters(text)
    run = min(LONGEST_RUN, max(SHORTEST_RUN, -(-len(said) // 2)))
    if len(said) < run:
        return False
    source = "\n".join(map(letters, sources))
    return any(_shares(form, source, run) for form in (said, said[::-1], codecs.encode(said, "rot13")))


def _shares(said: str, source: str, run: int) -> bool:
    """Whether `run` characters in a row of `said` stand in `source`. Each such run holds one whole block of half its length that begins at
    a multiple of that, so only the surroundings of blocks that are found are looked at closely."""
    block = (run + 1) // 2
    for at in range(0, len(said) - block + 1, block):
        if said[at : at + block] in source and any(
            said[start : start + run] in source for start in range(max(0, at + block - run), min(at, len(said) - run) + 1)
        ):
            return True
    return False
