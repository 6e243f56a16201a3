"""A reply that passes by: what a proxy hands on byte for byte while we read along how many tokens it took.

Plain httpx2 and not the `openai` SDK, which parses and rebuilds each piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from student_clients.errors import StudentError
from student_clients.token_bounds import BYTES_A_TOKEN
from student_clients.usage import Usage, UsageReader

if TYPE_CHECKING:
    import httpx2

NOT_PASSED = frozenset(
    "alt-svc connection content-encoding content-length date keep-alive openai-organization openai-project proxy-authenticate "
    "proxy-connection server set-cookie strict-transport-security te trailer transfer-encoding upgrade www-authenticate".split()
)
"""Of the upstream's headers, those that its caller's caller does not get: cookies and names of the account, and what is of one hop."""
NOT_FORWARDED = frozenset(
    "accept-encoding api-key authorization connection content-length content-type cookie expect forwarded host keep-alive "
    "openai-organization openai-project origin proxy-authorization proxy-connection referer te trailer transfer-encoding upgrade via "
    "x-api-key x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto x-real-ip".split()
)
"""Headers of a caller that are not sent upstream: its credentials, whom of our account it would name, where it calls from, and what
belongs to its own connection."""


def passed_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The upstream's headers that are handed on, names in lower case: request ids, rate limits and timings among them.
    A value that is not ASCII is left out: HTTP has no agreed way to send it."""
    return {name.lower(): value for name, value in headers.items() if name.lower() not in NOT_PASSED and value.isascii()}


@dataclass(frozen=True)
class RefusedReply:
    """A whole reply of another status than 2xx, our secrets struck out."""

    status: int
    headers: dict[str, str]
    content: bytes


class ForwardedReply:
    """The answer to a forwarded request, from its first byte on. Belongs to the event loop that it was made on."""

    def __init__(
        self,
        response: httpx2.Response,
        *,
        deadline: float | None,
        translated: Callable[[Exception], StudentError],
        on_usage: Callable[[Usage], None],
    ) -> None:
        """`deadline`: loop time by which the whole body must be here; None = each piece in time is enough."""
        self.status: int = response.status_code
        self.headers = passed_headers(response.headers)
        self.ended = False
        """Whether `chunks` came to the end of the body."""
        self.usage: Usage | None = None
        """Tokens, known once `chunks` has ended, where the server said."""
        self._reader = UsageReader(events=self.headers.get("content-type", "").startswith("text/event-stream"))
        self._response = response
        self._deadline = deadline
        self._translated = translated
        self._on_usage = on_usage

    @property
    def snapshot(self) -> tuple[str, str] | None:
        """(model, system_fingerprint) of the answer, as far as it was read."""
        return self._reader.snapshot

    @property
    def answer_tokens(self) -> int:
        """Tokens of the answer so far: as the server counted, else about as many as came, an event of a stream each."""
        if self.usage is not None:
            return self.usage.completion_tokens
        return self._reader.events or -(-self._reader.bytes // BYTES_A_TOKEN)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in pieces, as they come; once. Raises StudentTimeout or StudentUnreachable where it does not come to its end."""
        import httpx2

        reader = self._reader
        pieces = self._response.aiter_bytes()
        failure: StudentError | None = None
        while True:
            try:
                async with asyncio.timeout_at(self._deadline):
                    piece = await anext(pieces)
            except StopAsyncIteration:
                break
            except (httpx2.HTTPError, TimeoutError) as error:
                failure = self._translated(error)
                break
            reader.feed(piece)
            yield piece
        if failure is not None:
            raise failure
        self.ended = True
        self.usage = reader.end()
        if self.usage is not None:
            self._on_usage(self.usage)
