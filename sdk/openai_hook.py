"""`wrap(OpenAI(), url)`: each user turn of an OpenAI client goes to its provider with an instruction. The app's key never reaches us.

It hooks into the HTTP client below, on the public `event_hooks`: so `create`, `parse`, `stream`, raw responses, `with_options` and the
clients of Azure are all the same one place, and no signature of the openai package is repeated here. The request stays as it was but
for one string; where there is no advice it is sent byte for byte.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2

from sdk.teacher import Advice, AsyncTeacher, Teacher

log = logging.getLogger("wst.sdk")

ClientT = TypeVar("ClientT")
PATHS = ("/chat/completions", "/responses")
OPTIONS = ("instruct", "teacher", "task", "unit", "experiment")
"""What a caller may say about one request: in headers `WST-*` (`extra_headers`) or in the field `wst` (`extra_body`), as at the proxy.
Neither reaches the provider."""
TEXT_PARTS = ("text", "input_text")
COMPOSED = "<advice>\n"
"""How a turn begins that already carries an instruction."""


def wrap(client: ClientT, teacher: str | Teacher | AsyncTeacher, **options: Any) -> ClientT:
    """Make an `OpenAI` or `AsyncOpenAI` client instruct its user turns, and return it. Copies by `with_options` do so too.

    `teacher`: the service's URL, with `options` as of `AsyncTeacher`, or one that exists, of the client's kind. The reply's headers say
    what happened (`with_raw_response`): `wst-source`, `wst-degraded`, `wst-outcome-id` for `Teacher.outcome`, `wst-experiment`, `wst-arm`.
    Wrapped again, the new teacher takes the place of the old one. Raises TypeError for what is no such client.
    """
    http = getattr(client, "_client", None)
    if not isinstance(http, httpx2.Client | httpx2.AsyncClient):
        raise TypeError(f"wrap takes an OpenAI or AsyncOpenAI client (openai 3 or newer), not {type(client).__name__}")
    kind: type[Teacher | AsyncTeacher] = AsyncTeacher if isinstance(http, httpx2.AsyncClient) else Teacher
    if isinstance(teacher, str):
        teacher = kind(teacher, **options)
    if not isinstance(teacher, kind):
        raise TypeError(f"this client needs a {kind.__name__}, not {type(teacher).__name__}")
    hooks = _AsyncHooks(teacher) if isinstance(teacher, AsyncTeacher) else _Hooks(teacher)
    kept = {
        name: [one for one in those if not isinstance(getattr(one, "__self__", None), _Hooks | _AsyncHooks)]
        for name, those in http.event_hooks.items()
    }
    http.event_hooks = {"request": [*kept["request"], hooks.request], "response": [*kept["response"], hooks.response]}
    return client


@dataclass(frozen=True)
class _Turn:
    """The user turn that is to be instructed."""

    body: dict[str, Any]
    holder: dict[str, Any]
    """What holds the text, under `slot`."""
    slot: str
    query: str
    asked: dict[str, Any]
    """Arguments of `instruct`."""


class _Hooks:
    """On an `httpx2.Client`."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher

    def request(self, request: httpx2.Request) -> None:
        turn = _turn_of(request)
        if turn is not None:
            _put(request, turn, self.teacher.instruct(turn.query, **turn.asked))

    def response(self, response: httpx2.Response) -> None:
        _tell(response)


class _AsyncHooks:
    """On an `httpx2.AsyncClient`."""

    def __init__(self, teacher: AsyncTeacher) -> None:
        self.teacher = teacher

    async def request(self, request: httpx2.Request) -> None:
        turn = _turn_of(request)
        if turn is not None:
            _put(request, turn, await self.teacher.instruct(turn.query, **turn.asked))

    async def response(self, response: httpx2.Response) -> None:
        _tell(response)


def _turn_of(request: httpx2.Request) -> _Turn | None:
    """The turn to instruct, ours taken out of the request; None = it goes as it is."""
    options: dict[str, Any] = {}
    for name in [name for name in request.headers if name.lower().startswith("wst-")]:
        options[name.lower().removeprefix("wst-")] = request.headers.pop(name)
    if request.method != "POST" or not request.url.path.endswith(PATHS):
        return None
    try:
        body = json.loads(request.content)
        if "wst" in body:
            own = body.pop("wst")
            options = {**(own if isinstance(own, dict) else {}), **options}
            _rewrite(request, body)
        switch = options.get("instruct", True)
        if switch is False or str(switch).lower() in ("off", "false", "0"):
            _note(request, Advice([], degraded="opted_out"))
            return None
        turn = _user_turn(body)
        if turn is None:
            _note(request, Advice([], degraded="no_user_turn"))
            return None
        turn.asked.update({name: options[name] for name in OPTIONS[1:] if isinstance(options.get(name), str)})
        if "unit" not in turn.asked and isinstance(body.get("user"), str):
            turn.asked["unit"] = body["user"][:200] or None
        return turn
    except Exception as error:  # a body of a kind that we do not know: none of our business
        log.debug("a request went out as it was: %s", type(error).__name__)
        return None


def _user_turn(body: dict[str, Any]) -> _Turn | None:
    """The last turn where it is a user's and holds text that carries no instruction yet."""
    instructions = body.get("instructions")
    if isinstance(body.get("input"), str):
        turn = _Turn(body, body, "input", body["input"], {"system": instructions})
    else:
        said = body.get("messages") or body.get("input")
        *earlier, last = said if isinstance(said, list) else []
        if last.get("role") != "user" or last.get("type", "message") != "message":
            return None
        holder, slot = last, "content"
        if isinstance(last["content"], list):
            holder, slot = next(part for part in reversed(last["content"]) if part.get("type") in TEXT_PARTS), "text"
        systems = [instructions] if isinstance(instructions, str) else []
        systems += [_text(turn) for turn in earlier if turn.get("role") in ("system", "developer")]
        history = [{"role": t["role"], "content": _text(t)} for t in earlier if t.get("role") in ("user", "assistant") and _text(t).strip()]
        turn = _Turn(body, holder, slot, _text(last), {"system": "\n\n".join(filter(None, systems)) or None, "history": history})
    return turn if turn.query.strip() and not str(turn.holder[turn.slot]).startswith(COMPOSED) else None


def _text(turn: dict[str, Any]) -> str:
    """What a turn says in text."""
    content = turn.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if part.get("type") in (*TEXT_PARTS, "output_text"))


def _put(request: httpx2.Request, turn: _Turn, advice: Advice) -> None:
    """Put the instruction before the user's words."""
    _note(request, advice)
    if advice.instruction:
        before = advice.messages[-1]["content"].removesuffix(turn.query)
        turn.holder[turn.slot] = before + turn.holder[turn.slot]
        _rewrite(request, turn.body)


def _rewrite(request: httpx2.Request, body: dict[str, Any]) -> None:
    content = json.dumps(body, separators=(",", ":")).encode()
    request.stream = httpx2.ByteStream(content)
    request.headers["Content-Length"] = str(len(content))


def _note(request: httpx2.Request, advice: Advice) -> None:
    about = {"source": advice.source, "degraded": advice.degraded, "outcome-id": advice.request_id}
    about |= {"experiment": advice.experiment, "arm": advice.arm}
    request.extensions["wst"] = {f"wst-{name}": quote(value, safe=" ") for name, value in about.items() if isinstance(value, str)}


def _tell(response: httpx2.Response) -> None:
    """Say in the reply's headers what happened to its request."""
    response.headers.update(response.request.extensions.get("wst", {}))
