"""The texts of lab-m: scenes, the ten families' stories and questions, and the words of its instructions.

Slots: {n} {m} names, {a} {b} the numbers in the order of the text, {i} what is counted, {c} {cs} what it lies in, {at} where, {who} who
else is there, {people} the same without an article. The first half of a family's stories has the two-digit number first ({a}), the
second half last ({b}).
"""

from __future__ import annotations

from typing import NamedTuple


class Scene(NamedTuple):
    """A place with its nouns."""

    at: str
    who: str
    container: str
    containers: str
    items: tuple[str, ...]

    def slots(self, item: int) -> dict[str, str]:
        people = self.who.removeprefix("the ")
        return {"at": self.at, "who": self.who, "people": people, "c": self.container, "cs": self.containers, "i": self.items[item]}


def _scene(text: str) -> Scene:
    at, who, container, containers, *items = text.split(", ")
    return Scene(at, who, container, containers, tuple(items))


SCENES: dict[str, Scene] = {
    name: _scene(text)
    for name, text in {
        "bakery": "at the bakery, the bakers, tray, trays, loaves, rolls, muffins",
        "school": "at school, the pupils, shelf, shelves, pencils, rulers, notebooks",
        "farm": "on the farm, the farmers, crate, crates, eggs, pumpkins, carrots",
        "library": "in the library, the readers, case, cases, books, maps, albums",
        "harbour": "at the harbour, the fishermen, net, nets, fish, crabs, mussels",
        "garden": "in the garden, the gardeners, bed, beds, tulips, roses, herbs",
        "kitchen": "in the kitchen, the cooks, bowl, bowls, onions, spoons, plates",
        "post": "at the post office, the clerks, bag, bags, letters, parcels, cards",
        "toys": "in the toy shop, the children, box, boxes, dolls, kites, marbles",
        "zoo": "at the zoo, the keepers, bucket, buckets, bananas, melons, nuts",
        "theatre": "at the theatre, the actors, trunk, trunks, masks, hats, tickets",
        "museum": "in the museum, the guards, drawer, drawers, coins, shells, stones",
        "workshop": "in the workshop, the carpenters, tin, tins, screws, nails, hooks",
        "camp": "at the camp, the scouts, tent, tents, blankets, lamps, ropes",
        "stadium": "at the stadium, the players, locker, lockers, balls, scarves, caps",
        "orchard": "in the orchard, the pickers, basket, baskets, apples, pears, plums",
        "studio": "in the studio, the painters, jar, jars, brushes, crayons, sketches",
        "station": "at the station, the porters, cart, carts, suitcases, bottles, papers",
        "laundry": "in the laundry, the maids, hamper, hampers, shirts, towels, socks",
        "office": "at the office, the writers, folder, folders, stamps, pens, clips",
    }.items()
}
OPENERS = (
    "It is a busy day {at}.",
    "The sun is shining and there is a lot to do {at}.",
    "It rained all week, so {who} stayed indoors.",
    "Everybody {at} is in a good mood today.",
    "{n} and {m} have known each other for years.",
    "Early in the day {who} open the doors.",
)


class Family(NamedTuple):
    """What is to be done, how often it is asked, and its texts."""

    procedure: str
    weight: float
    stories: tuple[str, ...]
    questions: tuple[str, ...]

    def big_first(self, story: int) -> bool:
        return story < len(self.stories) // 2


FAMILIES: dict[str, Family] = {
    "total": Family(
        "add",
        0.16,
        (
            "{n} has {a} {i} and {m} has {b} {i}.",
            "There are {a} {i} in one {c} {at} and {b} {i} in another.",
            "{n} counted {a} {i} {at} while {m} counted {b}.",
            "{n} has {a} {i} and {m} has {b} {i}, all of them {at}.",
            "There are {a} {i} on the floor {at} and {b} {i} in a {c}.",
            "{n} brought {a} {i} {at} while {m} brought {b}.",
        ),
        (
            "How many {i} are there altogether?",
            "How many {i} do they have in all?",
            "What is the number of {i} altogether?",
            "Counting every one, how many {i} is that in all?",
        ),
    ),
    "growth": Family(
        "add",
        0.16,
        (
            "{n} had {a} {i} {at} and then found {b} new ones.",
            "A {c} {at} held {a} {i} before {n} put in {b} more.",
            "{n} owned {a} {i} and got {b} more from {m} as a gift.",
            "{n} found {a} new ones {at} and had {b} {i} before.",
            "After {n} put in {a} more {i}, the {c} {at} that held {b} before was full.",
            "{m} gave {n} {a} more {i} as a gift, and {n} owned {b} already.",
        ),
        (
            "How many {i} are there now?",
            "How many {i} does that make now?",
            "What is the number of {i} now?",
            "With the new ones, how many {i} is that?",
        ),
    ),
    "left": Family(
        "subtract",
        0.12,
        (
            "{n} had {a} {i} {at} and gave away {b} of them.",
            "Of the {a} {i} in a {c} {at}, {b} were lost on the way.",
            "There were {a} {i} {at} until {m} took {b} of them away.",
            "{n} gave away {a} of the {b} {i} {at}.",
            "Sadly {a} of the {b} {i} in a {c} {at} were lost.",
            "{m} took away {a} {i} {at}, where there were {b} of them.",
        ),
        (
            "How many {i} are left?",
            "How many {i} remain?",
            "What is the number of {i} that remain?",
            "After that, how many {i} are still there?",
        ),
    ),
    "compare": Family(
        "subtract",
        0.08,
        (
            "{n} sold {a} {i} {at} and {m} sold only {b}.",
            "One {c} {at} holds {a} {i}, the other one just {b}.",
            "{who} need {a} {i}, but {n} has only {b} {at}.",
            "{n} sold only {a} {i} {at}, but {m} sold {b}.",
            "One {c} {at} holds just {a} {i}, the other one {b}.",
            "{n} has only {a} {i} {at}, but {who} need {b}.",
        ),
        (
            "How many {i} is the difference?",
            "By how many {i} do the two differ?",
            "How many {i} is one number short of the other?",
        ),
    ),
    "groups": Family(
        "multiply",
        0.12,
        (
            "There are {a} {cs} {at} and each {c} holds {b} {i}.",
            "{n} fills {a} {cs} {at} with {b} {i} each.",
            "Each of the {a} {people} {at} carries {b} {i}.",
            "There are {a} {i} in each {c} {at} and there are {b} {cs}.",
            "{n} puts {a} {i} into each of {b} {cs} {at}.",
            "Carrying {a} {i} each, {b} {people} arrive {at}.",
        ),
        (
            "How many {i} are in all of them together?",
            "How many {i} fill them all?",
            "What is the number of {i} in all of them?",
        ),
    ),
    "price": Family(
        "multiply",
        0.08,
        (
            "{n} buys {a} {i} {at} for {b} dollars each.",
            "{who} order {a} {i}, and every one costs {b} dollars.",
            "{at}, {n} pays for {a} {i} at a price of {b} dollars apiece.",
            "At {a} dollars each, {n} buys {b} {i} {at}.",
            "Every one costs {a} dollars, and {who} order {b} {i}.",
            "{at}, at a price of {a} dollars apiece, {n} pays for {b} {i}.",
        ),
        (
            "How many dollars is the bill?",
            "What do the {i} cost in dollars?",
            "How many dollars does the whole purchase cost?",
        ),
    ),
    "share": Family(
        "divide",
        0.08,
        (
            "{n} spreads {a} {i} evenly over {b} {cs} {at}.",
            "{a} {i} {at} are shared out equally among {b} people.",
            "{who} pack {a} {i} into {b} equal {cs}.",
            "Over {a} {cs} {at}, {n} evenly spreads {b} {i}.",
            "Among {a} people {at}, {b} {i} are shared out equally.",
            "Into {a} equal {cs}, {who} pack {b} {i}.",
        ),
        (
            "How many {i} does each one get?",
            "How many {i} go to each?",
            "What is the number of {i} for each?",
        ),
    ),
    "packs": Family(
        "divide",
        0.06,
        (
            "{n} has {a} {i} {at} and ties them into bundles of {b}.",
            "{a} {i} {at} are packed so that every {c} is full with {b}.",
            "{who} line up {a} {i} in rows of {b}.",
            "Into bundles of {a}, {n} ties {b} {i} {at}.",
            "Every {c} is full with {a}, and {b} {i} {at} are packed.",
            "In rows of {a}, {who} line up {b} {i}.",
        ),
        (
            "How many bundles, rows or {cs} does that give?",
            "How many of these can be made?",
            "Into how many can the {i} be put?",
        ),
    ),
    "average": Family(
        "average",
        0.07,
        (
            "{n} sold {a} {i} {at} on Monday and {b} on Tuesday.",
            "{at}, {who} used {a} {i} in May and {b} in June.",
            "{n} carried {a} {i} on the first day and {b} on the second day.",
            "{n} sold {a} {i} {at} on Friday and {b} on Saturday.",
            "{at}, {who} used {a} {i} in July and {b} in August.",
            "{n} carried {a} {i} in the first week and {b} in the second week.",
        ),
        (
            "How many {i} is that on average?",
            "What is the average number of {i}?",
            "On average, how many {i} is it each time?",
        ),
    ),
    "round": Family(
        "double",
        0.07,
        (
            "From home {n} walks {a} metres to the bridge and {b} metres further to a feast {at}, and later back the same way.",
            "A yard {at} is {a} metres long and {b} metres wide, with a fence all around.",
            "{who} run {a} metres up the road and {b} metres through the wood, then return by the same way.",
            "From home {n} walks {a} metres to the gate and {b} metres further to a feast {at}, and later back the same way.",
            "A yard {at} is {a} metres wide and {b} metres long, with a fence all around.",
            "{who} run {a} metres through the wood and {b} metres up the road, then return by the same way.",
        ),
        (
            "How many metres is the whole way around or back?",
            "How many metres are that from beginning to end?",
            "What is the length of it all in metres?",
        ),
    ),
}
PHRASES: dict[str, tuple[str, ...]] = {
    "add": ("add the two numbers", "put both amounts together", "find the sum of the numbers", "count both amounts as one total"),
    "subtract": (
        "take the smaller number away from the larger one",
        "find the difference of the amounts",
        "subtract one number from the other",
        "work out how much larger one amount is",
    ),
    "multiply": (
        "multiply the two numbers",
        "find the product of the amounts",
        "take one number times the other",
        "count one amount as often as the other says",
    ),
    "divide": (
        "divide the larger number by the smaller one",
        "share the larger amount out equally",
        "find the quotient of the numbers",
        "see how often the smaller amount fits into the larger one",
    ),
    "average": (
        "add the numbers and halve the sum",
        "find the mean of the amounts",
        "take half of what both make together",
        "go to the middle between the numbers",
    ),
    "double": (
        "add the numbers and double the sum",
        "take twice the total",
        "put both amounts together and count that two times",
        "find the sum and then two of it",
    ),
    "steps": (
        "reason step by step",
        "go through the story sentence by sentence",
        "write down what is known and compute one thing after another",
        "take it slowly and show the whole reasoning",
    ),
}
FRAMES = ("{op}.", "Here you should {op}.", "To solve this, {op}.", "This is a case where you {op}.")
TAILS = ("", "Write one step a line.", "Keep it short.")
