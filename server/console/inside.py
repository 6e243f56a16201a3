"""The HTTP API called from a page, in this process and as the page's caller: what the console does is what a client of the API could do.

The request goes to the app's own router, behind the door that has let the page in: same routes, same checks, budgets, errors and events.
The scope that the route asks for is asked for again, so that a page never lends its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import Message

from server.access import scope_of

OF_ONE_ROUTE = ("path_params", "route", "endpoint", "fastapi_inner_astack", "fastapi_function_astack")
"""What routing leaves in a scope."""


@dataclass
class Reply:
    """What the API answered."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.content)


async def call(request: Request, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
    """The API's reply. Raises HTTPException, with the API's own sentence, where it refuses. `path` is not encoded."""
    caller = request.state.caller
    wanted = scope_of(path)
    if wanted not in caller.scopes and "admin" not in caller.scopes:
        raise HTTPException(403, f"this key has no scope {wanted!r}")
    try:
        content = b"" if body is None else json.dumps(body).encode()
        sent = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    except UnicodeEncodeError:
        raise HTTPException(422, "this holds letters that no header can carry") from None
    except RecursionError:
        raise HTTPException(422, "this is nested too deeply") from None
    sent += [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    sent += [pair for pair in request.scope["headers"] if pair[0] == b"host"]
    state = {"caller": caller, "request_id": request.state.request_id, "read_bytes": len(content)}
    scope = {key: value for key, value in request.scope.items() if key not in OF_ONE_ROUTE} | {
        "method": method,
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": b"",
        "headers": sent,
        "state": state,
    }
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            return await request.receive()  # the page's caller goes away
        given = True
        return {"type": "http.request", "body": content, "more_body": False}

    reply = Reply()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        else:
            reply.content += message.get("body", b"")

    await request.app.router(scope, receive, send)
    if "tokens" in state:  # so that the key's limit is charged what the student took
        outer = request.scope["state"]
        outer["tokens"] = outer.get("tokens", 0) + state["tokens"]
    if reply.status >= 400:
        raise HTTPException(reply.status, _said(reply))
    return reply


def _said(reply: Reply) -> str:
    """The sentence of an error; a student's own errors have the shape of OpenAI's, or any."""
    try:
        return str(reply.json["error"]["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return f"it was refused with status {reply.status}"
