"""A student's answer on its way back to the caller: forwarded, its pieces handed on as they come, its errors as the student gave them.

An ASGI response and not a handler, so that the student's connection is opened and closed in one place: it ends with the last byte, with an
error, or as soon as the caller goes away.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from opentelemetry.trace import SpanKind
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from exchange.records import Source
from server.errors import BrokenOffError, error_response
from server.tracing import onward, span
from student_clients import errors
from student_clients.budget import UNBILLED
from student_clients.errors import StudentError
from student_clients.forwarding import ForwardedReply
from student_clients.ledger import Forwarding
from student_clients.token_bounds import BYTES_A_TOKEN
from student_clients.usage import Usage

REFUSES_THE_BODY = (400, 413, 422)
"""Statuses after which an instructed request is sent once more as it came: an instruction may be what made it too long. Nothing was
generated, so nothing is billed."""


@dataclass(frozen=True)
class Prepared:
    """What is sent to the student."""

    content: bytes
    raw: bytes | None
    """The body without the instruction; None where `content` is that."""
    source: Source = "passthrough"
    degraded: str | None = None
    teacher_s: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the reply: the experiment that the request takes part in."""


class PassedOn(Response):
    """The answer of `student` to the prepared request."""

    def __init__(
        self,
        name: str,
        student: Forwarding,
        path: str,
        fields: Mapping[str, Any],
        prepared: Prepared,
        *,
        headers: Mapping[str, str],
        request_id: str,
        started: float,
        settle: Callable[[Usage | None], None] = lambda usage: None,
        saw: Callable[[tuple[str, str]], None] = lambda snapshot: None,
    ) -> None:
        """Once the request is over, `settle` is told what it took (None = nobody knows), and `saw` which version of the student it was."""
        self.settle, self.saw = settle, saw
        self.name = name
        self.student, self.path, self.fields, self.prepared = student, path, fields, prepared
        self.onward, self.request_id, self.started = headers, request_id, started
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = Sent(send)
        asked = perf_counter()
        failure: StudentError | None = None
        try:
            try:
                await self._pass_on(self.prepared, sent, scope)
            except StudentError as error:
                refused = error.reply is not None and error.reply.status in REFUSES_THE_BODY
                if self.prepared.raw is None or not refused or sent.begun:
                    raise
                raw = replace(self.prepared, content=self.prepared.raw, raw=None, source="passthrough", degraded="student_refused")
                self.prepared = raw
                await self._pass_on(raw, sent, scope)
        except StudentError as error:
            failure = error
            if sent.begun:
                await self._break_off(error, sent)
            await self._fail(error)(scope, receive, send)
        finally:
            student_s = perf_counter() - asked
            scope["state"]["apart_s"] = (scope["state"].get("apart_s") or 0.0) + student_s
            usage = scope["state"].get("usage") or Usage()
            scope["app"].state.metrics.answered(self.name, student_s, usage.prompt_tokens, usage.completion_tokens)
            if (snapshot := scope["state"].get("snapshot")) is not None:
                self.saw(snapshot)
            self.settle(scope["state"].get("usage") if failure is None else Usage() if isinstance(failure, UNBILLED) else None)

    async def _pass_on(self, prepared: Prepared, sent: Sent, scope: Scope) -> None:
        with span("student", kind=SpanKind.CLIENT, student=self.name):
            last = await self._forward(prepared, sent, scope)
        await sent.end(last)

    async def _forward(self, prepared: Prepared, sent: Sent, scope: Scope) -> bytes:
        """Hand the answer on, up to its last piece, which goes with the end."""
        headers = onward(dict(self.onward))
        forwarding = self.student.forward(self.fields, content=prepared.content, path=self.path, headers=headers)
        async with forwarding as reply, _counted(reply, scope, len(prepared.content)):
            headers = {**_renamed(reply.headers), **self._own_headers()}
            if self.fields.get("stream"):
                await sent.start(reply.status, headers)
                events = WholeEvents()
                async for piece in reply.chunks():
                    if whole := events.feed(piece):
                        await sent.piece(whole)
                return events.rest
            else:  # whole, so that an answer that breaks off is an error and no half answer
                content = b"".join([piece async for piece in reply.chunks()])
                await sent.start(reply.status, {**headers, "content-length": str(len(content))})
                return content

    def _own_headers(self) -> dict[str, str]:
        prepared = self.prepared
        total_ms, teacher_ms = 1000 * (perf_counter() - self.started), 1000 * prepared.teacher_s
        own = {
            **prepared.headers,
            "WST-Source": prepared.source,
            "Server-Timing": f"teacher;dur={teacher_ms:.1f}, total;dur={total_ms:.1f}",
        }
        return own if prepared.degraded is None else {**own, "WST-Degraded": prepared.degraded}

    def _fail(self, error: StudentError) -> Response:
        """The student's own refusal as it stands; where there is none, or it is about our key, one of ours."""
        reply = error.reply
        if reply is not None and reply.status >= 400 and not isinstance(error, errors.StudentAuthError):
            headers = {**_renamed(reply.headers), **self._own_headers()}
            return Response(reply.content, reply.status, headers)
        own = self._own_headers()
        if isinstance(error, errors.StudentTimeout):
            return error_response(504, "the student gave no answer in time", self.request_id, own)
        if isinstance(error, errors.StudentAuthError):
            return error_response(502, "the student refuses the key of this server; its operator has to mend that", self.request_id, own)
        return error_response(502, "the student cannot be reached or broke the connection off", self.request_id, own)

    async def _break_off(self, error: StudentError, sent: Sent) -> None:
        """End a stream that the student broke off: an event that OpenAI's clients raise as an error, then no clean end, for the others."""
        kind = "student_timeout" if isinstance(error, errors.StudentTimeout) else "student_unreachable"
        said = {"type": kind, "message": "the student broke its answer off", "request_id": self.request_id, "code": None, "param": None}
        event = {**said, "type": "error", "code": kind} if self.path == "responses" else {"error": said}
        name = "event: error\n" if self.path == "responses" else ""
        await sent.piece(f"{name}data: {json.dumps(event)}\n\n".encode())
        raise BrokenOffError from None


@asynccontextmanager
async def _counted(reply: ForwardedReply, scope: Scope, sent_bytes: int) -> AsyncIterator[None]:
    """Leave behind what a key's limit of tokens is charged in the end: what the student counted, else about what was sent and came, also
    where the caller left in the middle."""
    try:
        yield
    finally:
        about = {"prompt_tokens": -(-sent_bytes // BYTES_A_TOKEN), "completion_tokens": reply.answer_tokens}
        usage = Usage.model_validate(about) if reply.usage is None else reply.usage
        scope["state"]["usage"], scope["state"]["snapshot"] = usage, reply.snapshot
        scope["state"]["tokens"] = usage.prompt_tokens + usage.completion_tokens


class WholeEvents:
    """Server-sent events in pieces that end where an event does, so that one cut in two never reaches a caller as a whole one."""

    END = re.compile(rb"\n\n|\r\n\r\n|\r\r")
    MOST_HELD = 2**24
    """What is longer without an end is no event, and is handed on as it comes."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, piece: bytes) -> bytes:
        """The whole events that are known now."""
        searched = max(0, len(self.rest) - 3)
        self.rest += piece
        end = max((found.end() for found in self.END.finditer(self.rest, searched)), default=0)
        if len(self.rest) > self.MOST_HELD:
            end = len(self.rest)
        whole, self.rest = self.rest[:end], self.rest[end:]
        return whole


class Sent:
    """What went to the caller so far."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        self.begun = True
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def piece(self, content: bytes) -> None:
        await self._send({"type": "http.response.body", "body": content, "more_body": True})

    async def end(self, last: bytes) -> None:
        await self._send({"type": "http.response.body", "body": last, "more_body": False})


def _renamed(headers: Mapping[str, str]) -> dict[str, str]:
    """The student's headers: its request id under another name, since ours is what our log has."""
    return {"wst-student-request-id" if name == "x-request-id" else name: value for name, value in headers.items()}
