"""A reply that passes by: what a proxy hands on byte for byte while we read along how many tokens it took.

Plain httpx2 and not the `openai` SDK, which parses and rebuilds each piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from student_clients.errors import StudentError
from student_clients.usage import Usage, UsageReader

if TYPE_CHECKING:
    import httpx2

SAFE_HEADERS = ("content-type", "cache-control")
"""Of the upstream's headers, those that its caller's caller may have: cookies and limits are the account's, the rest is of one hop."""
NOT_FORWARDED = frozenset(
    "accept-encoding api-key authorization connection content-length content-type cookie expect host keep-alive "
    "proxy-authorization proxy-connection te trailer transfer-encoding upgrade x-api-key".split()
)
"""Headers of a caller that are not sent upstream: its credentials, and what belongs to its own connection."""


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
        self.headers = {name: response.headers[name] for name in SAFE_HEADERS if name in response.headers}
        self.ended = False
        """Whether `chunks` came to the end of the body."""
        self.usage: Usage | None = None
        """Tokens, known once `chunks` has ended, where the server said."""
        self._response = response
        self._deadline = deadline
        self._translated = translated
        self._on_usage = on_usage

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in pieces, as they come; once. Raises StudentTimeout or StudentUnreachable where it does not come to its end."""
        import httpx2

        reader = UsageReader(events=self.headers.get("content-type", "").startswith("text/event-stream"))
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
