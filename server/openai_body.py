"""A proxied request as the caller wrote it: where its last user turn stands, and how to put other words there and touch nothing else.

The body is never parsed and written anew: that would change numbers, escapes, doubled keys and whatever the next version of the protocol
brings. The places of what we need are found in the text instead, so a passthrough is byte-identical and an instructed body differs in one
string. `messages` is /v1/chat/completions, `input` is /v1/responses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from exchange.compose import compose_query, is_composed
from exchange.records import Message, PublicExample, Record
from server.wire import Name

Bypass = Literal["tool_turn", "no_user_turn", "no_text", "not_unicode", "already_instructed"]
"""Why a request has no turn that could be instructed."""

OWN_FIELD = "wst"
"""Taken out of the body before it is forwarded: how a caller that cannot set headers talks to us."""
TEXT_PARTS = ("text", "input_text")
SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


MOST_TURNS = 10_000
"""Elements of `messages` or `input` that are read one by one; more are refused."""
MOST_COMMAS = 500_000
"""Commas in a body, so that no JSON keeps the decoder, which gives way to nobody, for more than some 50 ms. Pictures hold none
after their first few bytes."""
SLICE = 1 << 16


class NotJSONError(ValueError):
    """The body is no JSON object."""


class TooComplexError(ValueError):
    """The body holds more than this server takes apart; the text says what."""


class Options(Record):
    """What a caller may say about one request, in the field `wst` of the body or in the headers `WST-*`."""

    instruct: bool = True
    """false = forward the request as it stands."""
    teacher: Name | None = None
    """One of the server's teachers; None = its default."""
    task: Name | None = None
    """The kind of question; None = the one the teacher was trained on."""
    unit: Name | None = None
    """Who asks, so that an experiment gives one user one arm; None = the body's `user`."""
    experiment: Name | None = None


@dataclass(frozen=True)
class _Member:
    """One member of a JSON object, and where it stands in the text."""

    value: Any
    key_start: int
    start: int
    end: int
    items: tuple[tuple[int, int], ...] = ()
    """The places of an array's elements, where they were asked for."""


@dataclass(frozen=True)
class UserTurn:
    """The turn that an instruction is for."""

    query: str
    last_text: str
    """The part of the query that the instruction goes before: all of it, or the last of several text parts."""
    start: int
    end: int
    """Where `last_text` stands in the body, quotes included."""
    system: str | None
    history: tuple[Message, ...]
    """Earlier turns as the teacher reads them: text of user and assistant; calls and results of tools and pictures are left out."""

    def example(self, request_id: str, task: str) -> PublicExample:
        return PublicExample(id=request_id, task=task, split="served", query=self.query, system=self.system, history=self.history)


@dataclass(frozen=True)
class ProxiedBody:
    """A request body, read."""

    text: str
    """As it came, less our own field."""
    fields: dict[str, Any]
    options: Options
    turn: UserTurn | None
    bypass: Bypass | None
    """Set exactly where `turn` is None."""
    _raw: bytes = field(repr=False, default=b"")
    _models: tuple[tuple[int, int], ...] = ()
    """Where the values of `model` stand; more than one where a caller doubles the key."""

    @property
    def raw(self) -> bytes:
        """What came, byte for byte, less our own field."""
        return self._raw

    def uninstructed(self, model: str | None = None) -> bytes:
        """What is forwarded without an instruction: `raw`, under the name that the student's server knows where `model` gives one."""
        return self._raw if model is None else self._edited([], model)

    def instructed(self, instruction: str, model: str | None = None) -> bytes:
        """The body with the instruction composed into its last user turn; everything else stands as it was."""
        assert self.turn is not None
        composed = json.dumps(compose_query(self.turn.last_text, instruction))
        return self._edited([(self.turn.start, self.turn.end, composed)], model)

    def _edited(self, edits: list[tuple[int, int, str]], model: str | None) -> bytes:
        if model is not None:
            edits = edits + [(start, end, json.dumps(model)) for start, end in self._models]
        text = self.text
        for start, end, new in sorted(edits, reverse=True):  # from the end, so that the places before stay where they are
            text = text[:start] + new + text[end:]
        return text.encode()


def read(content: bytes) -> ProxiedBody:
    """Read a body. Raises NotJSONError, TooComplexError, and pydantic's ValidationError where our own field is wrong.

    Of 20 MB this takes tens of milliseconds: large bodies are read on a thread (`routes_openai`).
    """
    commas = 0
    for at in range(0, len(content), SLICE):
        commas += content.count(b",", at, at + SLICE)
        if commas > MOST_COMMAS:
            raise TooComplexError(f"the body holds more than {MOST_COMMAS} values")
    try:
        text = content.decode()
        placed = list(_members(text, _skip(text, 0), whole=True))
    except TooComplexError:
        raise
    except (ValueError, RecursionError, IndexError):
        raise NotJSONError from None
    members = dict(placed)
    if OWN_FIELD in members:
        return _without(text, placed, Options.model_validate(members[OWN_FIELD].value))
    fields = {key: member.value for key, member in members.items()}
    turn = _turn(text, members)
    bypass = turn if isinstance(turn, str) else None
    models = tuple((member.start, member.end) for key, member in placed if key == "model")
    return ProxiedBody(text, fields, Options(), None if isinstance(turn, str) else turn, bypass, content, models)


def _without(text: str, placed: list[tuple[str, _Member]], options: Options) -> ProxiedBody:
    """The body as if our field had never stood in it."""
    places = [i for i, (key, _) in enumerate(placed) if key == OWN_FIELD]
    if len(places) > 1:
        raise TooComplexError(f"{OWN_FIELD} is given more than once")
    place = places[0]
    # One comma goes along: the one before the field, or, where it is the first, the one after it.
    start, end = placed[place][1].key_start, placed[place][1].end
    if place:
        start = placed[place - 1][1].end
    elif len(placed) > 1:
        end = placed[1][1].key_start
    return replace(read((text[:start] + text[end:]).encode()), options=options)


def _members(text: str, at: int, *, whole: bool = False) -> Iterator[tuple[str, _Member]]:
    """The members of the object that begins at `at`. Raises ValueError, IndexError or StopIteration where it is none. `whole`: nothing but
    space may follow it, and the elements of `messages` and `input` are placed too."""
    if text[at] != "{":
        raise ValueError
    at = _skip(text, at + 1)
    while text[at] != "}":
        key_start = at
        key, at = _decode(text, at)
        at = _skip(text, at)
        if not isinstance(key, str) or text[at] != ":":
            raise ValueError
        start = _skip(text, at + 1)
        if whole and key in ("messages", "input") and text[start] == "[":
            value, items, at = _elements(text, start)
        else:
            items = ()
            value, at = _decode(text, start)
        yield key, _Member(value, key_start, start, at, items)
        at = _next(text, at, "}")
    if whole and _skip(text, at + 1) != len(text):
        raise ValueError


def _elements(text: str, at: int) -> tuple[list[Any], tuple[tuple[int, int], ...], int]:
    """(values, places, end) of the array that begins at `at`."""
    values: list[Any] = []
    places: list[tuple[int, int]] = []
    at = _skip(text, at + 1)
    while text[at] != "]":
        value, end = _decode(text, at)
        if len(values) == MOST_TURNS:
            raise TooComplexError(f"a list of turns or parts holds more than {MOST_TURNS}")
        values.append(value)
        places.append((at, end))
        at = _next(text, end, "]")
    return values, tuple(places), at + 1


def _next(text: str, at: int, closing: str) -> int:
    """The place after a comma, or of the closing bracket."""
    at = _skip(text, at)
    if text[at] == closing:
        return at
    if text[at] != ",":
        raise ValueError
    at = _skip(text, at + 1)
    if text[at] == closing:
        raise ValueError
    return at


def _skip(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    assert found is not None
    return found.end()


def _turn(text: str, members: dict[str, _Member]) -> UserTurn | Bypass:
    """The last turn where it is a user's and holds text, else why it is not to be instructed."""
    said = members.get("messages") or members.get("input")
    if said is None:
        return "no_user_turn"
    system = members["instructions"].value if "instructions" in members else None
    if isinstance(said.value, str):
        return _checked(UserTurn(said.value, said.value, said.start, said.end, system if isinstance(system, str) else None, ()))
    if not said.items:
        return "no_user_turn"
    *earlier, last = said.value
    if not isinstance(last, dict) or last.get("type", "message") != "message":
        return "tool_turn" if isinstance(last, dict) else "no_user_turn"
    if last.get("role") != "user":
        return "tool_turn" if last.get("role") in ("tool", "function") else "no_user_turn"
    placed = _last_text(text, said.items[-1][0])
    if placed is None:
        return "no_text"
    systems = [system] if isinstance(system, str) else []
    systems += [_text(turn) for turn in earlier if isinstance(turn, dict) and turn.get("role") in ("system", "developer")]
    history = tuple(
        Message(role=turn["role"], content=_text(turn))
        for turn in earlier
        if isinstance(turn, dict) and turn.get("role") in ("user", "assistant") and _text(turn).strip()
    )
    return _checked(UserTurn(_text(last), *placed, "\n\n".join(filter(None, systems)) or None, history))


def _last_text(text: str, at: int) -> tuple[str, int, int] | None:
    """(text, start, end) of the message's content, or of the last text part of it."""
    content = dict(_members(text, at)).get("content")
    if content is None:
        return None
    if isinstance(content.value, str):
        return content.value, content.start, content.end
    if not isinstance(content.value, list):
        return None
    values, places, _ = _elements(text, content.start)
    for value, (start, _) in zip(reversed(values), reversed(places), strict=True):
        if isinstance(value, dict) and value.get("type") in TEXT_PARTS and isinstance(value.get("text"), str):
            part = dict(_members(text, start))["text"]
            return value["text"], part.start, part.end
    return None


def _text(turn: dict[str, Any]) -> str:
    """What a turn says in text."""
    content = turn.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") in (*TEXT_PARTS, "output_text")]
    return "\n".join(text for text in texts if isinstance(text, str))


def _checked(turn: UserTurn) -> UserTurn | Bypass:
    if not turn.query.strip():
        return "no_text"
    if is_composed(turn.last_text):  # the app asked /instruct itself: one instruction a turn
        return "already_instructed"
    try:
        "\0".join([turn.query, turn.system or "", *(message.content for message in turn.history)]).encode()
    except UnicodeEncodeError:  # half of a surrogate pair: the student may take it, no tokenizer of ours does
        return "not_unicode"
    return turn
