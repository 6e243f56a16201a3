"""Texts of `lab_families` that one split alone has: stories with the two-digit number first and second, and questions. The lab's models
were pretrained on neither."""

from __future__ import annotations

VALIDATION: dict[str, tuple[str, str, str]] = {
    "total": (
        "{a} {i} are on the floor and {b} {i} are in the bag.",
        "{b} {i} are on the floor and {a} {i} are in the bag.",
        "What number of {i} is there altogether?",
    ),
    "growth": (
        "{n} had {a} {i} before and found {b} new ones today.",
        "{n} got {b} new {i} today and had {a} before.",
        "What number of {i} is that now?",
    ),
    "left": (
        "There were {a} {i} on the table and {n} broke {b} of them.",
        "{n} ate {b} of the {a} {i} on the table.",
        "How many of the {i} are left over?",
    ),
    "missing": (
        "{n} wants {a} {i} for a set and owns only {b}.",
        "{n} owns only {b} {i} and wants {a} for the game.",
        "How many {i} is {n} still missing?",
    ),
    "rows": (
        "{n} makes {a} {i} every day for {b} days.",
        "For {b} days {n} makes {a} {i} every day.",
        "How many {i} are there in all?",
    ),
    "share": (
        "{n} deals out {a} {i} equally to {b} children.",
        "Among {b} children {n} splits {a} {i} equally.",
        "How many {i} are there for one?",
    ),
    "both_more": (
        "{n} picks {a} {i} and {m} picks {b} more than that.",
        "{m} picks {b} more {i} than {n}, who picks {a}.",
        "How many {i} do both have together?",
    ),
    "both_fewer": (
        "{n} picks {a} {i} and {m} picks {b} fewer than that.",
        "{m} picks {b} fewer {i} than {n}, who picks {a}.",
        "How many {i} do both have together?",
    ),
}
"""A story for each order and a question of each family that only the validation split has: which step is kept is decided on new texts, as
the test is."""

TRAINING: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "total": (
        (
            "{n} made {a} {i} and {m} made {b} {i}.",
            "{n} found {a} {i} today and {m} found {b} {i}.",
            "{a} {i} are on the shelf and {b} {i} are in the bag.",
        ),
        (
            "{n} made {b} {i} and {m} made {a} {i}.",
            "{n} found {b} {i} today and {m} found {a} {i}.",
            "{b} {i} are on the shelf and {a} {i} are in the bag.",
        ),
        ("What number of {i} do we count?", "What is the number of {i} we count?"),
    ),
    "growth": (
        (
            "{n} had {a} {i} and {m} gave {n} {b} new ones.",
            "{a} {i} were on the shelf and {n} put {b} new ones there.",
            "{n} had {a} {i} in the box and got {b} new ones today.",
        ),
        (
            "{m} gave {n} {b} new {i} and {n} had {a} before.",
            "{n} put {b} new {i} on the shelf where {a} were before.",
            "Today {n} got {b} new {i} and had {a} in the box before.",
        ),
        ("What number of {i} does {n} have now?", "Now how many {i} are there?"),
    ),
    "left": (
        (
            "{n} had {a} {i} and ate {b} of them.",
            "{n} had {a} {i} in the bag and gave away {b} of them.",
            "From {a} {i} on the table, {n} broke {b}.",
        ),
        (
            "{n} broke {b} of the {a} {i}.",
            "{n} lost {b} out of {a} {i} today.",
            "Today {n} gave away {b} of the {a} {i} at home.",
        ),
        ("What number of {i} did {n} have left?", "How many of the {i} are left?"),
    ),
    "missing": (
        (
            "{n} needs {a} {i} to win and has only {b}.",
            "A game takes {a} {i} and {n} has only {b} so far.",
            "{n} wants {a} {i} and owns only {b}.",
        ),
        (
            "{n} has only {b} {i} and needs {a} to win.",
            "{n} has only {b} {i} so far and a game takes {a}.",
            "{n} owns only {b} {i} and wants {a}.",
        ),
        ("What number of {i} does {n} still need?", "How many {i} are missing so far?"),
    ),
    "rows": (
        (
            "Every day {n} makes {a} {i}, for {b} days.",
            "{n} has {a} {i} on each of {b} shelves.",
            "{n} buys {a} {i} each week for {b} weeks.",
        ),
        (
            "{n} has {b} bags with {a} {i} in each.",
            "On each of {b} shelves {n} has {a} {i}.",
            "For {b} weeks {n} buys {a} {i} each week.",
        ),
        ("What number of {i} is that in all?", "In all, how many {i} are there?"),
    ),
    "share": (
        (
            "{n} deals out {a} {i} equally among {b} friends.",
            "{a} {i} are split equally among {b} players.",
            "{n} puts {a} {i} equally on {b} shelves.",
        ),
        (
            "{b} players split {a} {i} equally.",
            "To {b} children {n} deals out {a} {i} equally.",
            "On {b} shelves {n} puts {a} {i} equally.",
        ),
        ("What number of {i} does one get?", "How many {i} are for one of them?"),
    ),
    "both_more": (
        (
            "{n} puts {a} {i} in a bag and {m} puts in {b} more than {n}.",
            "{n} gave away {a} {i} and {m} gave away {b} more than that.",
            "On Monday {n} sold {a} {i}, on Friday {b} more than that.",
        ),
        (
            "{m} puts {b} more {i} in a bag than {n}, who puts in {a}.",
            "{m} gave away {b} more {i} than {n}, who gave away {a}.",
            "On Friday {n} sold {b} more {i} than on Monday, when it was {a}.",
        ),
        ("What number of {i} is that together?", "How many {i} are there together?"),
    ),
    "both_fewer": (
        (
            "{n} puts {a} {i} in a bag and {m} puts in {b} fewer than {n}.",
            "{n} gave away {a} {i} and {m} gave away {b} fewer than that.",
            "On Monday {n} sold {a} {i}, on Friday {b} fewer than that.",
        ),
        (
            "{m} puts {b} fewer {i} in a bag than {n}, who puts in {a}.",
            "{m} gave away {b} fewer {i} than {n}, who gave away {a}.",
            "On Friday {n} sold {b} fewer {i} than on Monday, when it was {a}.",
        ),
        ("What number of {i} is that together?", "How many {i} are there together?"),
    ),
}
"""Stories of each order and questions that only the training split has, beside those of pretraining: from five tellings of a kind of
question a teacher learns the tellings."""
