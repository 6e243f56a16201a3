"""What is sent to a server and must never be seen: the API key and the values of extra headers.

They are held here and nowhere else, so that no `repr` of a client shows them, and struck out of whatever a server says.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from urllib.parse import quote

SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie|credential|signature|passw", re.IGNORECASE)
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
MAX_QUOTED_CHARS = 300
MIN_PART_CHARS = 8


class Secrets:
    """The headers that a server gets from us: the key as a bearer token, and extra headers, which win where they name the same one."""

    def __init__(self, key: str, *, key_source: str, no_key: str, extra_headers: Mapping[str, str]) -> None:
        """`key` is the value that a server is sent, `no_key` the one that is none. Raises ValueError, without the value, where a value
        cannot stand in a header."""
        if not HEADER_VALUE.fullmatch(key):
            raise ValueError(f"{key_source} holds no usable API key: one line of printable ASCII is expected")
        for name, value in extra_headers.items():
            if not HEADER_NAME.fullmatch(name):
                raise ValueError(f"extra_headers: {name!r} is no header's name")
            if not HEADER_VALUE.fullmatch(value):
                raise ValueError(f"extra_headers: the value of {name} cannot be sent: one line of printable ASCII is expected")
        self._extra = {name.lower(): value for name, value in extra_headers.items() if not SECRET_HEADER.search(name)}
        own = {name.lower() for name in extra_headers}
        self.headers = {**({} if "authorization" in own else {"Authorization": f"Bearer {key}"}), **extra_headers}
        # A server may repeat a value as it stands, without its "Bearer", or in the escapes of JSON or of a URL.
        values = {*extra_headers.values(), *([key] if key != no_key else [])}
        values |= {part for value in values for part in value.split() if len(part) >= MIN_PART_CHARS}
        spellings = {spelling for value in values for spelling in (value, json.dumps(value)[1:-1], quote(value, safe=""))}
        longest_first = sorted(spellings, key=len, reverse=True)  # a value may be part of another
        self._any = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def digest(self) -> dict[str, str]:
        """A hash a value of those extra headers that choose something (a route, a model) and log nobody in."""
        return {name: hashlib.sha256(value.encode()).hexdigest()[:16] for name, value in sorted(self._extra.items())}

    def struck(self, content: bytes) -> bytes:
        """A body that a server sent, without our secrets."""
        # surrogateescape, so that what is no UTF-8 stays as it is.
        return self._any.sub("[secret]", content.decode(errors="surrogateescape")).encode(errors="surrogateescape")

    def quoted(self, text: str) -> str:
        """What a server said, on one line of at most 300 characters, without our secrets."""
        return " ".join(self._any.sub("[secret]", text).split())[:MAX_QUOTED_CHARS]
