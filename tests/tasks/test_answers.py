"""Extraction as replies really look: numbers, expressions, letters, yes and no, knights and knaves."""

import pytest

from tasks.gsm8k_answer import extract
from tasks.knights_knaves import extract_roles, gold_roles
from tasks.label_answer import extract_choice, extract_yes_no, gold_choice, gold_yes_no
from tasks.math_answer import candidates, gold_expression


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 12 apples.", "12"),
        ("**Answer:** 12", "12"),
        ("**Answer: $18**", "18"),
        (r"The final answer is $\boxed{18}$.", "18"),
        (r"\boxed{\$1,234.50}", "1234.5"),
        (r"\boxed{12 \text{ apples}}", "12"),
        (r"\boxed{x = 12}", "12"),
        (r"\boxed{\frac{3}{2}}", "1.5"),
        (r"\boxed{\dfrac{1}{3}}", "1/3"),
        (r"\boxed{1{,}250}", "1250"),
        (r"\boxed{1.25 \times 10^3}", "1250"),
        (r"\boxed{2 \frac{1}{2}}", "2.5"),
        (r"\boxed{\text{Total} = 7}", "7"),
        (r"\boxed{}", None),
        ("The answer is: 1,000,000.", "1000000"),
        ("The answer is $1.5 million.", "1500000"),
        ("The answer is 3 + 4 = 7.", "7"),
        ("The answer is 3/4.", "0.75"),
        (r"Final answer: $\frac{4}{2}$", "2"),
        ("#### 1 1/2", "1.5"),
        ("#### 3 5/4", "3"),
        ("#### 1.2e3", "1200"),
        (r"The answer is $3 \times 10^{-2}$.", "0.03"),
        ("#### 5 x 10", "5"),
        ("The answer is 60 miles/2 hours", "60"),
        ("The answer is −5.", "-5"),
        (r"The answer is \( \$42 \).", "42"),
        ("### Final Answer\n\n42", "42"),
        ("# Answer\n\n42\n", "42"),
        ("**Final Answer**\n\n$42", "42"),
        ("Answer: 50%", "50"),
        ("<think>maybe 5. The answer is 5</think> The answer is 6.", "6"),
        ("Thus, Janet has 16 - 7 = 9 eggs.", "9"),
        ("Therefore she makes **$18** per day.", "18"),
        ("The answer is " + "9" * 1000, None),
        ("#### 45k", "45000"),
        ("The answer is $45k.", "45000"),
        ("#### 45 kg", "45"),
        ("#### ４５", "45"),
        ("٣ and ٤", None),
        ("#### 1 000", "1000"),
        ("#### 1\u2009000", "1000"),
        ("#### 1\u202f000", "1000"),
        ("#### 1\u00a0000", "1000"),
        ("#### 1\\,000", "1000"),
        ("\\boxed{1 000}", "1000"),
        ("\\boxed{12\\,345}", "12345"),
        ("The answer is 1 234 567.", "1234567"),
        ("The answer is 1 000 dollars.", "1000"),
        ("She earns 1 000 dollars.", "1000"),
        ("He buys 3 100 ml bottles", "100"),
        ("#### $1,200.00", "1200"),
        ("####12 apples", "12"),
        ("#### 12, of the 20", "12"),
        ("#### 12\nSo 12 are left out of 20.", "12"),
        ("The answer is 12. She had 20 before.", "12"),
        ("#### 1,00", "1"),
        ("#### 10\n#### 12", "12"),
        ("FINAL ANSWER: 12", "12"),
        ("The answer is 20*5=<<20*5=100>>100", "100"),
        ("#### －12", "-12"),
        ("#### 30€", "30"),
        ("#### Rs. 300", "300"),
        ("答案：12", "12"),
        ("#### 12元", "12"),
        ("\\boxed{600 minutes = 10 hours}", "10"),
        ("The answer is 1/3 cup.", "1/3"),
        ("The answer is 2.5 million", "2500000"),
    ],
)
def test_numbers(text, number):
    assert extract(text) == number


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        (r"The answer is $x=5$.", ["x=5"]),
        (r"Thus $x = \boxed{3}$ or $x=\boxed{4}$.", ["4", "3, 4"]),
        (r"\boxed{3} was my first try. Now $\boxed{4}$.", ["4"]),
        (r"\boxed{\frac{\sqrt{3}}{2}}", [r"\frac{\sqrt{3}}{2}"]),
        (r"\boxed{\boxed{5}}", [r"\boxed{5}"]),
        (r"\boxed 5", ["5"]),
        (r"so \boxed{5", ["5"]),
        (r"\fbox{3}", ["3"]),
        (r"\boxed{44}. We check that the answer is correct.", ["44"]),
        (r"I got \boxed{44}. No, the answer is $45$.", ["45"]),
        ("**Final Answer**\n\n$$7$$", ["7"]),
        ("The answer is 3.5 meters per second.", ["3.5 meters per second"]),
        ("A: (-1, 2)", ["(-1, 2)"]),
        ("#### Step 2\nso $\\boxed{7}$", ["7"]),
        (r"\boxed{7}" + "\n#### Conclusion\nWe are done.", ["7"]),
        (r"...so $f(x) = 3x+1 = 7$.", ["7", "f(x) = 3x+1 = 7"]),
        ("x^2+1", ["x^2+1"]),
        ("# Answer\n\n\\frac{1}{2}", ["\\frac{1}{2}"]),
        ("It comes to −5", ["−5"]),
        ("So the value is 12.", ["12"]),
        (r"\boxed{2\sqrt{17} \approx 8.25}", [r"2\sqrt{17} \approx 8.25", " 8.25"]),
        ("", []),
    ],
)
def test_expressions(text, answers):
    assert candidates(text) == answers


@pytest.mark.parametrize("text", ["x^2+1", "so $x=5$.", "It is 12.", ""])
def test_strict_needs_a_marker(text):
    assert candidates(text, strict=True) == []


@pytest.mark.parametrize(
    ("gold", "expression"),
    [
        ("$x$", "$x$"),
        (r"so \boxed{2}", "2"),
        ("steps\n#### 7", "7"),
        ("", None),
        (r"\frac{1}{2", None),
        ("$$", None),
        ("(" * 99 + "1" + ")" * 99, None),
    ],
)
def test_golds(gold, expression):
    assert gold_expression(gold) == expression


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The best answer is (C) an oasis.", "C"),
        ("**Answer: (D)**", "D"),
        (r"\boxed{\text{C}}", "C"),
        (r"The final answer is $\boxed{B}$.", "B"),
        ("C", "C"),
        ("C) an oasis", "C"),
        ("The answer is B. Because A is wrong.", "B"),
        ("Option A is wrong. So the correct answer is D, oasis.", "D"),
        ("A is wrong, B is wrong, thus C.", "C"),
        ("answer is b", "B"),
        ("Answer:\nB", "B"),
        ("The correct choice is **C**: because", "C"),
        ("#### D", "D"),
        ("The answer is a dog.", None),
        ("I think it is a hard question", None),
        ("a " * 100, None),
    ],
)
def test_letters(text, letter):
    assert extract_choice(text) == letter


def test_an_option_by_its_text():
    options = {"A": "a bank", "B": "an oasis", "C": "a river"}
    assert extract_choice("It would be an oasis", options=options) == "B"
    assert extract_choice(r"\boxed{a river}", options=options, strict=True) == "C"
    assert extract_choice("a bank or a river", options=options) is None
    assert extract_choice("So it is B.", strict=True) is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("So no, they could not.", "no"),
        ("**Answer:** No", "no"),
        (r"\boxed{\text{Yes}}", "yes"),
        ("Yes, because no one knows.", "yes"),
        ("Thus the statement is false.", "no"),
        ("There is no evidence; the answer is yes", "yes"),
        ("I don't know", None),
    ],
)
def test_yes_and_no(text, word):
    assert extract_yes_no(text) == word


def test_golds_of_labels():
    assert [gold_choice(gold) for gold in ("C", "(c)", "2", "Answer: D", "none")] == ["C", "C", "B", "D", None]
    assert [gold_yes_no(gold) for gold in ("yes", "True", "FALSE", "The answer is no.", "maybe")] == ["yes", "yes", "no", "no", None]


@pytest.mark.parametrize(
    "text",
    [
        "Ada is a knight, Bo is a knave, and Cy is a knave.",
        "Answer: Ada: knight, Bo: knave, Cy: knave",
        "- **Ada**: Knight\n- **Bo**: Knave\n- **Cy**: Knave",
        "If Ada is a knave then Bo is a knight. Contradiction. So Ada is a knight, Bo is a knave. Cy is a knave.",
        "Ada is a knight, while Bo and Cy are knaves.",
        "Knights: Ada. Knaves: Bo, Cy.",
        "Ada is not a knave; Bo, Cy are knaves",
        r"\boxed{Ada: knight, Bo: knave, Cy: knave}",
    ],
)
def test_roles(text):
    gold = "Cy: knave, Ada: knight, Bo: knave"
    assert extract_roles(text, gold) == gold_roles(gold) == "Ada: knight, Bo: knave, Cy: knave"
    assert extract_roles("Ada is a knight.", gold) is None
