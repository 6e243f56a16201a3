"""What the teacher writes in a key's shadow: behind the caller's back, for the log alone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from server.experiments import event_id
from server.line import Instructed
from store import Event, EventLog, StoreError

log = logging.getLogger("wst.server")

MOST_IN_FLIGHT = 256
"""Requests whose shadow is being written; of more no shadow is written."""


def shadow_topic(tenant: str, key: str) -> str:
    return f"shadow/{tenant}/{key}"


class Shadows:
    """Used on one event loop. The instruction is logged, since that is what the mode is for; the query is not."""

    def __init__(self, events: EventLog, redact: Callable[[str], str]) -> None:
        self.events, self.redact = events, redact
        self.left_out = 0
        self._writing: set[asyncio.Task[None]] = set()

    def begin(self, tenant: str, key: str, request_id: str, unit: str, ask: Callable[[], Awaitable[tuple[Instructed, str]]]) -> None:
        """Have `ask` answered (with the teacher's sha256) and logged; the caller does not wait."""
        if len(self._writing) >= MOST_IN_FLIGHT:
            self.left_out += 1
            return
        writing = asyncio.create_task(self._write(tenant, key, request_id, unit, ask))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)

    async def _write(self, tenant: str, key: str, request_id: str, unit: str, ask: Callable[[], Awaitable[tuple[Instructed, str]]]) -> None:
        try:
            done, teacher = await ask()
            content: dict[str, Any] = {
                "request_id": request_id,
                "unit": unit,
                "instruction": self.redact(done.instruction.text),
                "source": done.instruction.source,
                "degraded": done.degraded,
                "teacher": teacher,
                "teacher_ms": round(1000 * done.answer.seconds, 1),
            }
            name = event_id("shadow", tenant, key, request_id, str(time.time_ns()))
            await self.events.append([Event(name, shadow_topic(tenant, key), "shadow", time.time(), content, unit)])
        except StoreError as error:
            log.error("a shadow was not logged: %s", error)
        except Exception as error:  # of the operator's redaction: the text is not kept, and its words not logged
            log.error("a shadow was not logged: %s", type(error).__name__)

    async def aclose(self) -> None:
        if self._writing:
            await asyncio.wait(self._writing)
