"""The one composer: `[system][history][instruction block + query]`, and on a draft `[system][history][query][draft][instruction block +
request to revise]`.

Training, evaluation, A/B runs and serving all compose here. The per-query text comes last, so that a provider's prefix cache keeps
working; the instruction is data at user level in a delimited block, never above the app's system prompt. Silence (empty text) gives
exactly the raw messages, whose answer a draft is.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from exchange.records import Instruction, Message, PublicExample

TEMPLATE = Path(__file__).parent / "templates" / "advice.txt"


@cache
def _template() -> str:
    return TEMPLATE.read_text(encoding="utf-8").removesuffix("\n")


@cache
def _revise() -> str:
    return (TEMPLATE.parent / "revise.txt").read_text(encoding="utf-8").removesuffix("\n")


@cache
def template_version() -> str:
    """sha256 of the template file: part of cache keys and of a teacher's manifest."""
    return hashlib.sha256(TEMPLATE.read_bytes()).hexdigest()


def raw_messages(example: PublicExample) -> tuple[Message, ...]:
    """The conversation as the app would send it without us."""
    system = (Message(role="system", content=example.system),) if example.system is not None else ()
    return (*system, *example.history, Message(role="user", content=example.query))


def compose(example: PublicExample, instruction: Instruction) -> tuple[Message, ...]:
    """The conversation that carries `instruction`; equal to `raw_messages(example)` where the instruction is silence."""
    messages = raw_messages(example)
    if not instruction.text:
        return messages
    if example.draft is not None:
        advice = compose_query(_revise(), instruction.text)
        return (*messages, Message(role="assistant", content=example.draft), Message(role="user", content=advice))
    return (*messages[:-1], Message(role="user", content=compose_query(example.query, instruction.text)))


def compose_query(query: str, instruction: str) -> str:
    """The user's turn that carries `instruction`; the query itself where that is empty."""
    if not instruction:
        return query
    block = _template().replace("{instruction}", instruction, 1)
    # The query is put in last and by position, so that neither text can be mistaken for a slot of the template.
    head, _, tail = block.rpartition("{query}")
    return head + query + tail


def is_composed(query: str) -> bool:
    """Whether a user's turn already carries an instruction."""
    before, _, rest = _template().partition("{instruction}")
    after = rest.partition("{query}")[0]
    return bool(before) and query.startswith(before) and after in query
