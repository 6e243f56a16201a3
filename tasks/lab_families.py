"""The texts of the lab's questions: eight families, each with stories for both orders of the numbers and questions to go with them.

The last story of each order and the last question of a family belong to the test split alone; they use the cue words of the others, as a
new text of the same family does. Other splits' own texts are in `lab_texts`.
"""

from __future__ import annotations

from dataclasses import dataclass

NAMES = (
    "Anna Ben Carl Dora Emil Fay Gus Hana Ivan Jill Kofi Lena Mona Nils Olga Paul Rosa Sam Tara Uma Vera Will Yara Zoe "
    "Amir Bea Cleo Dan Ella Finn Greta Hugo Ines Jack Kim Leo Maya Noah Pia Ravi"
).split()
TEST_NAMES = "Omar Petra Quinn Ruth Sven Tomas Ursula Viktor Wanda Xenia".split()
ITEMS = (
    "apples books coins pens cards shells beads stamps balls cups nuts plums rings stones boxes tickets buttons marbles pencils stickers"
).split()


@dataclass(frozen=True)
class Family:
    """Stories in which the two-digit number {a} comes first or second, questions, and what to do. The last of each tuple is test only."""

    operation: str
    weight: float
    big_first: tuple[str, ...]
    big_second: tuple[str, ...]
    questions: tuple[str, ...]


FAMILIES: dict[str, Family] = {
    "total": Family(
        "add",
        0.18,
        (
            "{n} has {a} {i} and {m} has {b} {i}.",
            "There are {a} {i} on the table and {b} {i} on the floor.",
            "{n} picks {a} {i} while {m} picks {b} {i}.",
            "{a} {i} are in the box and {b} {i} are in the bag.",
            "In the morning {n} made {a} {i}, in the evening {m} made {b} {i}.",
            "{a} {i} are on the table and {b} {i} are in the box.",
        ),
        (
            "{n} has {b} {i} and {m} has {a} {i}.",
            "There are {b} {i} on the table and {a} {i} on the floor.",
            "{n} picks {b} {i} while {m} picks {a} {i}.",
            "{b} {i} are in the box and {a} {i} are in the bag.",
            "In the morning {n} made {b} {i}, in the evening {m} made {a} {i}.",
            "{b} {i} are on the table and {a} {i} are in the box.",
        ),
        (
            "How many {i} are there altogether?",
            "How many {i} is that altogether?",
            "How many {i} do we count?",
            "What is the number of {i} altogether?",
            "How many {i} do we count altogether?",
        ),
    ),
    "growth": Family(
        "add",
        0.18,
        (
            "{n} had {a} {i} and then found {b} new ones.",
            "{n} had {a} {i} and got {b} new ones as a gift.",
            "{a} {i} were in the bag and {n} put in {b} new ones.",
            "To the {a} {i} on the table {n} put {b} new ones.",
            "{n} had {a} {i} at home and today {m} gave {n} {b} new ones.",
            "With {a} {i} at home, {n} found {b} new ones today.",
        ),
        (
            "{n} found {b} new {i} and had {a} before.",
            "{n} got {b} new {i} as a gift and had {a} before.",
            "{n} put {b} new {i} in the bag where {a} were before.",
            "{b} new {i} came to the {a} that {n} had before.",
            "{m} gave {n} {b} new {i} today and {n} had {a} at home.",
            "Today {n} found {b} new {i} and had {a} at home before.",
        ),
        (
            "How many {i} does {n} have now?",
            "What is the number of {i} now?",
            "How many {i} are there now?",
            "Now how many {i} is that?",
            "Now {n} has how many {i}?",
        ),
    ),
    "left": Family(
        "subtract",
        0.12,
        (
            "{n} had {a} {i} and gave away {b}.",
            "From {a} {i}, {n} lost {b}.",
            "There were {a} {i} and {n} ate {b} of them.",
            "Out of {a} {i}, {n} broke {b}.",
            "{n} had {a} {i} at home and lost {b} of them today.",
            "Out of {a} {i}, {n} gave away {b}.",
        ),
        (
            "{n} gave away {b} of the {a} {i} on the table.",
            "{n} lost {b} of the {a} {i}.",
            "{n} ate {b} out of {a} {i}.",
            "{b} of the {a} {i} broke when {n} came home.",
            "Today {n} lost {b} of {a} {i}.",
            "{n} broke {b} of the {a} {i} on the table.",
        ),
        (
            "How many {i} are left?",
            "How many {i} did {n} have left?",
            "What is left of the {i}?",
            "How many {i} were left over?",
            "What number of {i} is left?",
        ),
    ),
    "missing": Family(
        "subtract",
        0.10,
        (
            "{n} needs {a} {i} but only has {b}.",
            "A set takes {a} {i} and {n} owns only {b}.",
            "To win, {n} needs {a} {i}, with only {b} so far.",
            "{n} wants {a} {i} and got only {b} so far.",
            "For the game {n} needs {a} {i} and owns only {b}.",
            "{n} needs {a} {i} for a set and owns only {b} so far.",
        ),
        (
            "{n} only has {b} {i} but needs {a}.",
            "{n} owns only {b} {i} and a set takes {a}.",
            "With only {b} {i} so far, {n} needs {a} to win.",
            "{n} got only {b} {i} so far and wants {a}.",
            "{n} owns only {b} {i} and needs {a} for the game.",
            "{n} owns only {b} {i} so far and needs {a} for a set.",
        ),
        (
            "How many {i} are missing?",
            "How many {i} is {n} missing?",
            "How many {i} does {n} still need?",
            "How many {i} are still missing?",
            "What number of {i} is still missing?",
        ),
    ),
    "rows": Family(
        "multiply",
        0.12,
        (
            "{n} puts {a} {i} in each of {b} bags.",
            "Each shelf holds {a} {i} and there are {b} shelves.",
            "{n} buys {a} {i} every day for {b} days.",
            "There are {a} {i} in each bag and {n} has {b} bags.",
            "Every week {n} makes {a} {i}, for {b} weeks.",
            "{n} puts {a} {i} on each shelf and there are {b} shelves.",
        ),
        (
            "{n} fills {b} bags with {a} {i} in each.",
            "There are {b} shelves and each holds {a} {i}.",
            "For {b} days {n} buys {a} {i} every day.",
            "{n} has {b} bags and there are {a} {i} in each.",
            "For {b} weeks {n} makes {a} {i} every week.",
            "On {b} shelves {n} puts {a} {i} each.",
        ),
        (
            "How many {i} are in all of them?",
            "How many {i} is that in all?",
            "What is the number of {i} in all?",
            "How many {i} does {n} have in all?",
            "How many {i} in all is that?",
        ),
    ),
    "share": Family(
        "divide",
        0.10,
        (
            "{n} shares {a} {i} equally among {b} children.",
            "{a} {i} are split equally among {b} friends.",
            "{n} deals out {a} {i} equally to {b} players.",
            "{n} puts {a} {i} equally into {b} bags.",
            "{a} {i} are shared equally by {b} children.",
            "{n} splits {a} {i} equally among {b} players.",
        ),
        (
            "{b} children share {a} {i} equally.",
            "Among {b} friends {n} splits {a} {i} equally.",
            "To {b} players {n} deals out {a} {i} equally.",
            "Into {b} bags {n} puts {a} {i} equally.",
            "{b} friends are to share {a} {i} equally.",
            "{b} players share {a} {i} equally.",
        ),
        (
            "How many {i} does one get?",
            "How many {i} are there for one of them?",
            "How many {i} are for one?",
            "What does one of them get?",
            "How many {i} does one of them get?",
        ),
    ),
    "both_more": Family(
        "double_add",
        0.10,
        (
            "{n} has {a} {i} and {m} has {b} more than {n}.",
            "{n} sold {a} {i} while {m} sold {b} more than that.",
            "On Monday {n} made {a} {i}, on Friday {b} more than that.",
            "{n} found {a} {i} and {m} found {b} more than that.",
            "{n} owns {a} {i} while {m} owns {b} more than {n}.",
            "{n} made {a} {i} and {m} made {b} more than that.",
        ),
        (
            "{m} has {b} more {i} than {n}, who has {a}.",
            "{m} sold {b} more {i} than {n}, who sold {a}.",
            "On Friday {n} made {b} more {i} than on Monday, when it was {a}.",
            "{m} found {b} more {i} than {n}, who found {a}.",
            "{m} owns {b} more {i} than the {a} of {n}.",
            "{m} made {b} more {i} than {n}, who made {a}.",
        ),
        (
            "What do both make together?",
            "How many {i} are both together?",
            "How many {i} is that together?",
            "Together, how many {i} are there?",
            "How many {i} do both make together?",
        ),
    ),
    "both_fewer": Family(
        "double_subtract",
        0.10,
        (
            "{n} has {a} {i} and {m} has {b} fewer than {n}.",
            "{n} sold {a} {i} while {m} sold {b} fewer than that.",
            "On Monday {n} made {a} {i}, on Friday {b} fewer than that.",
            "{n} found {a} {i} and {m} found {b} fewer than that.",
            "{n} owns {a} {i} while {m} owns {b} fewer than {n}.",
            "{n} made {a} {i} and {m} made {b} fewer than that.",
        ),
        (
            "{m} has {b} fewer {i} than {n}, who has {a}.",
            "{m} sold {b} fewer {i} than {n}, who sold {a}.",
            "On Friday {n} made {b} fewer {i} than on Monday, when it was {a}.",
            "{m} found {b} fewer {i} than {n}, who found {a}.",
            "{m} owns {b} fewer {i} than the {a} of {n}.",
            "{m} made {b} fewer {i} than {n}, who made {a}.",
        ),
        (
            "What do both make together?",
            "How many {i} are both together?",
            "How many {i} is that together?",
            "Together, how many {i} are there?",
            "How many {i} do both make together?",
        ),
    ),
}
