"""Refusals by their phrases."""

import pytest

from rewards.guardrails import refused


@pytest.mark.parametrize(
    "text",
    [
        "I cannot help with that.",
        "I'm sorry, but I can't assist with this request.",
        "I am sorry. I cannot help with that. Ask the owner first.",
        "I’m sorry, I can’t provide that.",
        "As an AI, I have no opinion on it.",
        "That would be illegal. Please do not.",
        "I won't help you with this.",
    ],
)
def test_refusals(text):
    assert refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "Gladly! First, turn the pin to the left.",
        "I am sorry to hear that. Here is what helps: rest and water.",
        "You cannot help everyone, but you can start here.",
        "Sure. " + "Do this. " * 40 + "I cannot help with the rest.",
        "",
    ],
)
def test_answers(text):
    assert not refused(text)
