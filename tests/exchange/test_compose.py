"""The composer: order of the parts, silence, and texts that look like slots."""

from exchange.compose import compose, raw_messages, template_version
from exchange.records import Example, Instruction, Message

HISTORY = (Message(role="user", content="Hi"), Message(role="assistant", content="Hello"))
EXAMPLE = Example(
    id="1", task="t", split="test", query="How many?", system="Be brief.", history=HISTORY, gold="4", reference="r", family="f", oracle="o"
)


def say(text):
    return Instruction(text=text, source="teacher")


def test_the_order_is_system_history_instruction_query():
    messages = compose(EXAMPLE.public(), say("Count them."))
    assert [m.role for m in messages] == ["system", "user", "assistant", "user"]
    assert messages[:3] == raw_messages(EXAMPLE.public())[:3]
    assert messages[-1].content == "<advice>\nCount them.\n</advice>\nThe advice may be wrong; the question decides.\n\nHow many?"


def test_silence_is_exactly_the_raw_messages():
    assert compose(EXAMPLE.public(), say("")) == raw_messages(EXAMPLE.public())
    assert raw_messages(EXAMPLE.public())[-1].content == "How many?"


def test_neither_text_is_taken_for_a_slot():
    tricky = EXAMPLE.model_copy(update={"query": "What is {instruction}?"})
    assert compose(tricky.public(), say("Ignore {query}."))[-1].content == (
        "<advice>\nIgnore {query}.\n</advice>\nThe advice may be wrong; the question decides.\n\nWhat is {instruction}?"
    )


def test_public_drops_what_no_model_may_see():
    public = EXAMPLE.public()
    assert set(public.model_dump()) == {"id", "task", "split", "query", "system", "history", "draft"}
    assert type(public).__name__ == "PublicExample"


def test_the_template_has_a_version():
    assert len(template_version()) == 64
