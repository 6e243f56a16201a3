"""Finding a user's turn in a request body, and changing nothing else of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from exchange.compose import compose_query
from exchange.records import Message
from server.openai_body import MOST_COMMAS, MOST_TURNS, NotJSONError, Options, TooComplexError, read

ODD = """ {"x": 1.50e1, "model":"m" ,"n":1E5,"x":[ ],"messages" : [
  {"role":"system","content":"Be br\\u00efef."}, {"role": "user", "name":"a", "content" : "2 + 2 \\ud83d\\ude00 ä?" , "y":{}}
 ],"big":123456789012345678901234567890,"nan":NaN, "s":"\\ud800"}
"""


def turn_of(body: Any) -> Any:
    found = read(json.dumps(body).encode())
    return found.bypass or found.turn


def test_an_instructed_body_differs_in_one_string() -> None:
    found = read(ODD.encode())
    assert found.raw == ODD.encode()
    assert found.turn is not None
    assert (found.turn.query, found.turn.system) == ("2 + 2 😀 ä?", "Be brïef.")
    composed = json.dumps(compose_query("2 + 2 😀 ä?", "Add."))
    assert found.instructed("Add.").decode() == ODD.replace('"2 + 2 \\ud83d\\ude00 ä?"', composed)


def test_pictures_stay_and_the_last_text_part_is_instructed() -> None:
    parts = [{"type": "text", "text": "A page."}, {"type": "image_url", "image_url": {"url": "data:x"}}, {"type": "text", "text": "Why?"}]
    body = {
        "model": "m",
        "messages": [
            {"role": "user", "content": parts},
        ],
        "tools": [{"type": "function"}],
    }
    found = read(json.dumps(body).encode())
    assert found.turn is not None
    assert found.turn.query == "A page.\nWhy?"
    parts[-1]["text"] = compose_query("Why?", "Look.")
    assert json.loads(found.instructed("Look.")) == body


def test_the_teacher_reads_what_user_and_assistant_said() -> None:
    found = turn_of(
        {
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
                {"role": "tool", "tool_call_id": "1", "content": "rain"},
                {"role": "assistant", "content": "Rain."},
                {"role": "system", "content": "In English."},
                {"role": "user", "content": "And tomorrow?"},
            ]
        }
    )
    assert found.history == (Message(role="user", content="Weather?"), Message(role="assistant", content="Rain."))
    assert (found.query, found.system) == ("And tomorrow?", "Be brief.\n\nIn English.")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "no_user_turn"),
        ({"messages": []}, "no_user_turn"),
        ({"messages": "text"}, None),
        ({"messages": {"role": "user"}}, "no_user_turn"),
        ({"messages": ["text"]}, "no_user_turn"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "tool", "tool_call_id": "1", "content": "4"}]}, "tool_turn"),
        ({"messages": [{"role": "function", "name": "f", "content": "4"}]}, "tool_turn"),
        ({"messages": [{"role": "assistant", "content": "prefill"}]}, "no_user_turn"),
        ({"messages": [{"role": "system", "content": "s"}]}, "no_user_turn"),
        ({"messages": [{"role": "user"}]}, "no_text"),
        ({"messages": [{"role": "user", "content": None}]}, "no_text"),
        ({"messages": [{"role": "user", "content": 5}]}, "no_text"),
        ({"messages": [{"role": "user", "content": []}]}, "no_text"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "no_text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "no_text"),
        ({"messages": [{"role": "user", "content": "half \ud800"}]}, "not_unicode"),
        ({"messages": [{"role": "user", "content": compose_query("q", "Add.")}]}, "already_instructed"),
        ({"input": "q"}, None),
        ({"input": " "}, "no_text"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "q"}]}]}, None),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "4"}]}, "tool_turn"),
        ({"input": [{"type": "message", "role": "assistant", "content": "a"}]}, "no_user_turn"),
        ({"previous_response_id": "r"}, "no_user_turn"),
    ],
)
def test_what_is_instructed_and_what_is_not(body: dict[str, Any], reason: str | None) -> None:
    found = read(json.dumps(body).encode())
    assert found.bypass == reason
    assert (found.turn is None) == (reason is not None)
    assert found.raw == json.dumps(body).encode()


def test_responses() -> None:
    body = {"input": [{"role": "user", "content": "a"}, {"role": "user", "content": "q"}], "instructions": "Be brief."}
    found = read(json.dumps(body).encode())
    assert found.turn is not None
    assert (found.turn.query, found.turn.system, found.turn.history) == ("q", "Be brief.", (Message(role="user", content="a"),))
    assert json.loads(found.instructed("Add.")) == {
        **body,
        "input": [body["input"][0], {"role": "user", "content": compose_query("q", "Add.")}],
    }
    assert json.loads(read(b'{"input": "q"}').instructed("Add.")) == {"input": compose_query("q", "Add.")}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('{"a":1, "wst": {"task": "math"} , "b": 2}', '{"a":1 , "b": 2}'),
        ('{"wst":{"task":"math"},"b":2}', '{"b":2}'),
        ('{"a": 1,"wst":{"task":"math"}}', '{"a": 1}'),
        ('{ "wst":{"task":"math"} }', "{  }"),
        ('{"a": 1, "wst":{"task":"math"}, "a": 2}', '{"a": 1, "a": 2}'),
    ],
)
def test_our_own_field_is_read_and_taken_out(text: str, left: str) -> None:
    found = read(text.encode())
    assert found.options == Options(task="math")
    assert found.raw.decode() == left
    assert "wst" not in found.fields


@pytest.mark.parametrize("field", ['{"tsak": 1}', "7", '{"task": ""}', '{"teacher": "' + "x" * 201 + '"}', "null"])
def test_a_wrong_field_of_ours_is_refused(field: str) -> None:
    with pytest.raises(ValidationError):
        read(b'{"wst": ' + field.encode() + b"}")


@pytest.mark.parametrize(
    "content",
    [
        b"", b" ", b"[]", b"7", b"null", b'"text"', b"{",
        b'{"a"}', b'{"a" 1}', b'{"a":1,}', b'{,"a":1}', b'{"a":1 "b":2}', b'{"a":1} x', b'{"a":}',
        b'{"messages":[1,]}', b'{"messages":[1 2]}', b'{"messages":[', b"{'a':1}",
        b'{"a":"\xff"}', b'{"a":"\n"}', b"\xef\xbb\xbf{}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' + b"9" * 10_000 + b"}",
        b'{5:1}', b'{"a":1}}',
    ],
)  # fmt: skip
def test_not_json(content: bytes) -> None:
    with pytest.raises(NotJSONError):
        read(content)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"])},
    optional={"content": st.text() | VALUES, "x": VALUES},
)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=4), st.lists(TURNS | VALUES, max_size=4), st.integers(0, 3), st.booleans())
def test_any_body_is_read_as_json_reads_it(others: dict[str, Any], messages: list[Any], indent: int, ascii_only: bool) -> None:
    others.pop("wst", None)
    body = {**others, "messages": messages}
    content = json.dumps(body, indent=indent or None, ensure_ascii=ascii_only).encode(errors="replace")
    found = read(content)
    assert found.raw == content
    assert found.fields == json.loads(content)
    if found.turn is not None:
        changed = json.loads(found.instructed("Add."))
        last = changed["messages"][-1]
        if isinstance(last["content"], str):
            last["content"] = found.turn.query
            assert changed == json.loads(content)


def test_the_students_own_name_goes_to_the_student() -> None:
    found = read(b'{"model": "ours", "messages": [{"role": "user", "content": "q"}], "x":1.0, "model" :"ours"}')
    assert found.uninstructed("theirs-\u00e4") == (
        b'{"model": "theirs-\\u00e4", "messages": [{"role": "user", "content": "q"}], "x":1.0, "model" :"theirs-\\u00e4"}'
    )
    both = json.loads(found.instructed("Add.", "theirs"))
    assert both == {"model": "theirs", "messages": [{"role": "user", "content": compose_query("q", "Add.")}], "x": 1.0}
    assert found.uninstructed() == found.raw


@pytest.mark.parametrize(
    "body",
    [
        '{"a":1' + ',"wst":{}' * 2 + "}",
        '{"wst":{}' + ',"wst":{}' * 200_000 + "}",
        '{"messages":[' + "0," * MOST_TURNS + "0]}",
        '{"messages":[{"role":"user","content":[' + "0," * MOST_TURNS + "0]}]}",
        '{"input":[' + '"x",' * MOST_TURNS + '{"content":"q"}]}',
        '{"x":[[' + "0," * (MOST_COMMAS + 1) + "0]]}",
    ],
)
def test_what_would_take_long_is_refused_early(body: str) -> None:
    """Bounded by counts and not by the clock: no element beyond the bound is read."""
    with pytest.raises(TooComplexError):
        read(body.encode())


def test_a_picture_of_megabytes_is_no_work() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 8_000_000}}, {"type": "text", "text": "Why?"}]
    found = read(json.dumps({"messages": [{"role": "user", "content": parts}]}).encode())
    assert found.turn is not None
    assert found.turn.query == "Why?"
