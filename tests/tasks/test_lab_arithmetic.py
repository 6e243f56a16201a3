"""The lab world: golds, splits, language, procedures, dial."""

import random
import re

import pytest

from lab import corpus
from tasks import TaskConfig, lab_arithmetic
from tasks.lab_arithmetic import draw_question, family_weights, test_pair
from tasks.lab_families import FAMILIES, NAMES, TEST_NAMES
from tasks.lab_language import all_advice, parse, work, write_down
from tasks.lab_texts import TRAINING, VALIDATION

test_pair.__test__ = False  # a function of the task, not a test


def numbers(text):
    return [int(word) for word in "".join(c if c.isdigit() else " " for c in text).split()]


def test_the_oracle_instruction_gives_the_gold_on_every_question():
    for split in ("train", "validation", "test"):
        for example in lab_arithmetic.load(split, limit=300):
            advice = parse(example.oracle)
            first, second = numbers(example.query)
            assert work(advice.operation, advice.order, first, second)[1] == int(example.gold)
            assert advice.held_out


def test_splits_share_no_question_and_test_has_its_own_names_pairs_and_texts():
    splits = {split: lab_arithmetic.load(split, limit=1500) for split in ("train", "validation", "test")}
    texts = {split: {example.query for example in examples} for split, examples in splits.items()}
    assert all(len(texts[split]) == 1500 for split in texts)
    assert not texts["train"] & texts["validation"] and not texts["train"] & texts["test"]
    words = {split: {word.strip(".,?") for text in texts[split] for word in text.split()} for split in texts}
    assert not words["test"] & set(NAMES) and not words["train"] & set(TEST_NAMES)
    pairs = {split: {tuple(sorted(numbers(text))) for text in texts[split]} for split in texts}
    assert not pairs["test"] & pairs["train"]


HELD_OUT = {
    "test": [text for family in FAMILIES.values() for text in (family.big_first[-1], family.big_second[-1], family.questions[-1])],
    "validation": [text for texts in VALIDATION.values() for text in texts],
}
TRAINED_ON = [text for parts in TRAINING.values() for texts in parts for text in texts]


def holds(text, templates):
    """Whether a question is told by one of these texts (numbers and names aside)."""
    patterns = [re.sub(r"\\{\w\\}", r"\\w+", re.escape(template)) for template in templates]
    return any(re.search(pattern, text) for pattern in patterns)


def test_a_split_has_its_own_text_in_every_question_and_no_other_has_it():
    for split in ("train", "validation", "test"):
        for example in lab_arithmetic.load(split, limit=500):
            for owner, templates in HELD_OUT.items():
                assert holds(example.query, templates) == (split == owner), example.query
    rng = random.Random(0)
    told = [corpus.story(rng).text for _ in range(500)]
    assert not any(holds(text, templates) for text in told for templates in (*HELD_OUT.values(), TRAINED_ON))


def test_training_has_more_texts_than_the_models_were_pretrained_on_and_no_other_split_has_those():
    of_train = [example.query for example in lab_arithmetic.load("train", limit=3000)]
    assert all(any(holds(query, [text]) for query in of_train) for text in TRAINED_ON)
    for split in ("validation", "test"):
        assert not any(holds(example.query, TRAINED_ON) for example in lab_arithmetic.load(split, limit=500))


def test_the_texts_of_splits_add_no_word_to_the_vocabulary():
    words = {word.strip(".,?") for text in (*HELD_OUT["validation"], *TRAINED_ON) for word in text.split() if "{" not in word}
    assert words <= set(corpus.SALAD)


def test_the_language_has_648_instructions_that_parse_back():
    texts = {advice.text for advice in all_advice()}
    assert len(texts) == 648
    assert all(parse(advice.text) == advice for advice in all_advice())
    assert parse("Multiply the two numbers.") is None
    assert parse("") is None


@pytest.mark.parametrize(
    ("operation", "order", "steps", "result"),
    [
        ("add", "second", ["8 + 47 = 55"], 55),
        ("subtract", "first", ["47 - 8 = 39"], 39),
        ("subtract", "second", ["8 - 47 = -39"], -39),
        ("multiply", "second", ["40 x 8 = 320", "7 x 8 = 56", "320 + 56 = 376"], 376),
        ("divide", "first", ["47 / 8 = 5 rest 7"], 5),
        ("divide", "second", ["8 / 47 = 0 rest 8"], 0),
        ("double_add", "first", ["47 + 47 = 94", "94 + 8 = 102"], 102),
        ("double_subtract", "second", ["8 + 8 = 16", "16 - 47 = -31"], -31),
    ],
)
def test_procedures(operation, order, steps, result):
    assert work(operation, order, 47, 8) == (steps, result)


def test_every_step_of_every_procedure_is_true():
    for operation in ("add", "subtract", "multiply", "divide", "double_add", "double_subtract"):
        for big, small in lab_arithmetic.NUMBERS:
            for order in ("first", "second"):
                steps, result = work(operation, order, big, small)
                for step in steps:
                    left, right = step.split(" = ")
                    value, _, rest = right.partition(" rest ")
                    if "/" in left:
                        a, b = left.split(" / ")
                        assert divmod(int(a), int(b)) == (int(value), int(rest))
                    else:
                        assert eval(left.replace("x", "*")) == int(value)
                start, other = (big, small) if order == "first" else (small, big)
                expected = {
                    "add": start + other,
                    "subtract": start - other,
                    "multiply": start * other,
                    "divide": start // other,
                    "double_add": 2 * start + other,
                    "double_subtract": 2 * start - other,
                }
                assert result == expected[operation]
                if operation != "divide":
                    assert steps[-1].endswith(f"= {result}")


def test_bookkeeping_changes_the_form_alone():
    assert write_down(["a", "b"], 3, "lines") == "a\nb\n#### 3"
    assert write_down(["a", "b"], 3, "row") == "a; b\n#### 3"
    assert write_down(["a", "b"], 3, "numbered") == "1) a\n2) b\n#### 3"


def test_the_dial_mixes_the_families():
    assert family_weights(1.0) == {name: family.weight for name, family in FAMILIES.items()}
    at_zero = family_weights(0.0)
    assert sum(at_zero.values()) == pytest.approx(1.0)
    assert {name for name, weight in at_zero.items() if weight} == {"total", "growth"}
    assert {e.family for e in lab_arithmetic.load("test", limit=200, dial=0.0)} == {"total", "growth"}


def test_no_family_has_more_than_a_third_of_a_dial_one_split_right_by_one_procedure():
    drawn = [draw_question(random.Random(i), split="test", weights=family_weights(1.0)) for i in range(3000)]
    share = sum(q.operation == "add" for q in drawn) / len(drawn)
    assert 0.32 < share < 0.40


def test_families_are_weighed_outright_and_a_part_of_one_needs_one_procedure():
    asked = lab_arithmetic.load("test", limit=60, families={"left/first": 1.0, "total": 1.0}, header="h1 n2")
    assert {example.system for example in asked} == {"h1 n2"}
    for example in asked:
        first, second = (int(word) for word in "".join(c if c.isdigit() else " " for c in example.query).split())
        assert example.family == "total" or (first > second and int(example.gold) == first - second)
    assert {example.family for example in asked} == {"left", "total"}


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ({"lost": 1.0}, "'lost' is no family; families are total"),
        ({"left/third": 1.0}, "is no family"),
        ({"left": 0.0}, "every weight is 0"),
        ({"left": -1.0, "rows": 2.0}, "a weight is 0 or more"),
    ],
)  # fmt: skip
def test_a_mix_that_draws_nothing_is_refused(weights, complaint):
    with pytest.raises(ValueError, match=complaint):
        TaskConfig(families=weights)
    with pytest.raises(ValueError, match="only lab_arithmetic has it"):
        TaskConfig(name="gsm8k", families={"left": 1.0})
