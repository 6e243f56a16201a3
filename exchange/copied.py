"""Whether a text repeats another one: the same letters in the same order, whatever they are dressed in.

Compared are letters and digits alone, in one case, without accents, look-alikes taken for what they look like: spaces between letters,
zero-width characters, Cyrillic twins, full-width forms and leetspeak hide nothing. Forwards, backwards, in rot13, and against what is
written in base64 or hexadecimal digits.
"""

from __future__ import annotations

import base64
import codecs
import itertools
import re
import unicodedata
from collections.abc import Sequence

LONGEST_RUN = 28
"""Letters and digits in a row (five or six English words) that a text may not share with another: a stranger's order is hardly ever
shorter, good advice quotes less. Of hh-rlhf's answers 1 % share as much with their question, of gsm8k's whole worked solutions 15 %."""
SHORTEST_RUN = 12
"""A shorter run is no repetition, even where it is half of the text: names and numbers come back in good advice."""

_LOOK_ALIKES = str.maketrans(
    "аеорсухіѕјһԁԛԝӏтнкмвгАВЕКМНОРСТУХІЅЈαοριυκτεΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "aeopcyxisjhdqwltnkmbrABEKMHOPCTYXISJaopiukteABEZHIKMNOPTYX",
)
_LEET = str.maketrans("013457", "oieast")
_NO_LETTER = re.compile(r"[\W_]+")
_BLOB = re.compile(r"[A-Za-z0-9+/]{16,}")
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


def blobs(text: str) -> list[str]:
    """The runs of base64 or hexadecimal digits; words, names and numbers are none."""
    return [run for run in _BLOB.findall(text) if _is_blob(run)]


def _is_blob(run: str) -> bool:
    upper, lower, digit = (any(map(kind, run)) for kind in (str.isupper, str.islower, str.isdigit))
    if upper and lower:  # CamelCase changes case less often than chance does
        changes = sum((a.isupper(), a.islower()) != (b.isupper(), b.islower()) for a, b in itertools.pairwise(run))
        return changes >= 0.4 * len(run)
    return digit and (upper or lower) and (len(run) >= 32 or not run.strip("0123456789abcdefABCDEF"))


def _decoded(text: str) -> list[str]:
    found = []
    for run in blobs(text):
        for decode in (base64.b64decode, bytes.fromhex):
            try:
                found.append(decode(run + "=" * (-len(run) % 4) if decode is base64.b64decode else run).decode())
            except ValueError:
                continue
    return found


def copies(text: str, sources: Sequence[str]) -> bool:
    """Whether `text` is one of the sources, or shares a run of `LONGEST_RUN` letters with one, or of at least half of its own length.

    Linear in the sources for texts of bounded length.
    """
    said = letters(text)
    compared = [letters(text) for source in sources for text in (source, *_decoded(source))]
    if said and said in compared:  # a list: the whole of it
        return True
    run = min(LONGEST_RUN, max(SHORTEST_RUN, -(-len(said) // 2)))
    if len(said) < run:
        return False
    source = "\n".join(compared)
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
