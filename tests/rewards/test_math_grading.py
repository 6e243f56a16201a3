"""Which mathematical answers are the same: pairs by kind, in both orders, with and without the fast path; properties."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewards.correctness import Grader

SAME = {
    "fractions": [r"\frac{1}{2}|0.5", r"\frac12|\dfrac{2}{4}", r"-\frac{3}{4}|\frac{-3}{4}", r"\frac{3}{4}|3/4", r"\frac{2}{3}|\frac 23"],
    "mixed": [r"2\frac{1}{2}|\frac{5}{2}", r"2 1/2|2.5", r"6 \frac34|6.75", "½|0.5"],
    "numbers": [
        "10,\\!080|10080",
        "1,000|1000",
        r"10{,}000|10,000",
        "5.0|5",
        "1.5e3|1500",
        r"1.5\times 10^3|1500",
        r"0.\overline{3}|\frac13",
    ],
    "names": ["x=5|5", "f(x)=x^2|x^2", r"x \in [2,3)|[2,3)", "y=2x+3|3+2x"],
    "roots": [
        r"\frac{\sqrt{3}}{3}|\frac{1}{\sqrt{3}}",
        r"2\sqrt{3}|\sqrt{12}",
        r"\sqrt[3]{2}|2^{1/3}",
        r"\sqrt5|√5",
        r"\sqrt{2}/2|\frac{\sqrt2}2",
    ],
    "algebra": [r"(x+1)^2|x^2+2x+1", r"\frac{1}{x^2}|x^{-2}", r"\cos 2x|1-2\sin^2 x", r"p-q|-q+p", "x²|x^2"],
    "conditions": [r"(3,\infty)|\{x : x>3\}", r"3|3 \pmod{7}", r"(1,2)|(x, y) = (1, 2)", r"\text{A and C}|A, C"],
    "constants": [r"8\pi|8π", r"e^{i\pi}|-1", r"120|5!", r"\binom{5}{2}|10", "2^{10}|1024", "3+4i|4i+3"],
    "equations": ["2x-y=-3|y=2x+3", "x^2+y^2=25|x^2+y^2-25=0", "4x+6y=10|2x+3y-5=0"],
    "intervals": [r"(-1,3)|-1<x<3", r"[2,\infty)|x \ge 2", r"(2,3]|2 < x \leq 3", r"\left[\frac12,1\right)|[0.5,1)", "3<k|k>3"],
    "unions": [r"(-\infty,1)\cup(3,\infty)|x<1 \text{ or } x>3", r"x \neq 3|(-\infty,3)\cup(3,\infty)", r"\mathbb{R}|(-\infty,\infty)"],
    "lists": ["1,2|2, 1", r"1,2|\{2, 1\}", r"x=-2 \text{ and } x=4|-2, 4", "x=1,y=2|y=2, x=1", r"-12 \text{ or } -30|-30,-12"],
    "plus-minus": [r"1\pm\sqrt{2}|1+\sqrt{2}, 1-\sqrt{2}", r"x=\pm 3|3, -3"],
    "tuples": [r"(3, \frac{\pi}{2})|\left(3,\frac{\pi}{2}\right)", "(1,2),(3,4)|(3,4), (1,2)", r"\langle 1,2,3\rangle|(1,2,3)"],
    "matrices": [
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}|\begin{bmatrix}1&2\\3&4\end{bmatrix}",
        r"\begin{pmatrix} \frac12 \\ 2 \end{pmatrix}|\begin{pmatrix} 0.5 \\ 2 \end{pmatrix}",
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}|(1,2)",
    ],
    "units": [r"18\text{ cm}|18", r"12 \text{ cm}^2|12 \text{ square centimeters}", r"25\text{ mph}|25 miles per hour", "5|5 apples"],
    "degrees": [r"90^\circ|90", "30°|30^{\\circ}", r"90|90 \text{ degrees}"],
    "money and percent": [r"\$12.50|12.5", r"\$36|36 \text{ dollars}", r"50\%|50", r"50\%|0.5", "12\\%|12 percent", r"\$1{,}250|1250"],
    "text": [
        r"\text{Evelyn}|evelyn",
        r"\text{even}|Even",
        r"\text{four}|4",
        r"\text{4:30 p.m.}|4:30 PM",
        r"\text{Saturday}|\text{saturday.}",
    ],
    "letters": [r"\text{(C)}|C", r"\text{(A)}|\textbf{(A)}", r"\text{(C)}|(C) 42", r"A,B,C|\text{A, C, B}"],
    "units behind letters": [r"12\pi \text{ cm}^2|12\pi", r"16\pi\text{ in}^3|16\pi \text{ cubic inches}"],
    "scaled matrices": [
        r"\begin{pmatrix} -1/3 & 2/3 \\ 5/3 & 8/3 \end{pmatrix}|\frac{1}{3}\begin{pmatrix} -1 & 2 \\ 5 & 8 \end{pmatrix}",
        r"-\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}|\begin{bmatrix} -1 & 0 \\ 0 & -1 \end{bmatrix}",
    ],
    "signs in lists": [r"0,\pm\sqrt{3}|-\sqrt{3}, 0, \sqrt{3}", r"1,-1,i,-i|\pm 1, \pm i", r"\{-2,0,2\}|0,\pm 2"],
    "words for sets": [
        r"[0,\infty)|\text{all nonnegative real numbers}",
        r"(0,\infty)|\text{All positive reals}",
        r"x \neq 3|\text{all real numbers except } 3",
        r"(-\infty,0)\cup(0,\infty)|\mathbb{R} \setminus \{0\}",
        r"\emptyset|\text{no solution}",
        r"\text{6 and 8}|6, 8",
    ],
    "rounded beside exact": [r"\pi|\pi \approx 3.14", r"\frac13|\frac13 \approx 0.333"],
    "products of letters": [
        "4ab+4ac|4a(b+c)",
        r"\frac12ab|\frac{ab}2",
        "5a+3bc|3bc+5a",
        "xyz|xzy",
        r"6pqr|6p\cdot q\cdot r",
        "6 pqr|6pqr",
        "5|5 men",
        "5|5kg",
        "50|50 km/h",
        r"odd|\text{odd}",
    ],
    "scales": [
        r"5000000|5\text{ million}",
        r"\$2500000|2.5\text{ million dollars}",
        "144|12 dozen",
        r"3\pi\text{ million}|3000000\pi",
        r"[12,\infty)|12\text{ or more}",
    ],
    "named tuples": [
        r"(3,\pi/2)|(r,\theta)=(3,\pi/2)",
        r"(3,\pi/2)|r=3,\theta=\pi/2",
        "(5,2)|n=5,k=2",
        "(2,5)|n=5,k=2",
        "(x,y)=(1,2)|y=2,x=1",
        r"r=1,\theta=2|\theta=2,r=1",
    ],
    "dress": [r"\text{Option B}|B", "7:00 AM|7 a.m.", r"\color{red}{17}|17", r"\textcolor{red}{17}|17", r"\sqrt[3]{-8}|-2"],
    "bases": ["413_5|413", "11_2|11_{2}", r"413_5|413_{\text{five}}"],
}
DIFFERENT = (
    r"\frac{1}{2}|\frac{1}{3}  (1,2)|(2,1)  (1,2)|[1,2]  [1,2)|(1,2]  1,2|1,3  5|-5  \sqrt{2}|1.414  \pi|3.14  411_5|411_6  \text{(A)}|B  "
    r"x+1|x-1  2x|x^2  35\sqrt{2}|35  x=5|y=5  (-\infty,3]|(-\infty,3)  x>3|x<3  x>3|x\ge3  2|2x  "
    r"2|2\pi  \frac{1}{3}|0.33  50\%|5  0.5|50  .3|3  "
    r"x^2+y^2=25|x^2+y^2=5  1\pm\sqrt2|1+\sqrt2  3+4i|3-4i  \infty|-\infty  1,2,3|123  (1,2),(3,4)|(1,4),(3,2)  \sin{x}|\cos{x}  a_1|a_2  "
    r"\sqrt{x^2}|x  6|6!  1:2|2:1  3:1|3  \emptyset|0  \frac{1}{2004!}|\frac{2}{2004!}  \text{even}|odd  12\text{cm}|12\text{m}  "
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}|\begin{pmatrix}1&3\\2&4\end{pmatrix}  "
    r"16\pi\text{ in}^3|16\pi \text{ in}^2  16\pi\text{ in}^3|16\pi^3  0,\pm 2|0,2  "
    r"[0,\infty)|\text{all positive real numbers}  \begin{pmatrix}2&4\end{pmatrix}|3\begin{pmatrix}1&2\end{pmatrix}  \pi|3.14159  "
    r"90^\circ|90\text{radians}  y=2x+3|y=2x-3  "
    r"9ab|9  2ab|2xy  12|12xy  12|12 xy  x^2+2xy|x^2+2  \frac12bh|\frac12  7xy^2|7  5a+3bc|5a+3  9pqr|9  xyz|xyw  "
    r"5|5\text{ million}  12|12 dozen  12|12\text{ or more}  12|12 or more  (5,2)|n=4,k=2  r=1,\theta=2|\theta=1,r=2  "
    r"(x,y)=(1,2)|y=1,x=2  7:00 AM|7 pm  7:30 AM|7 a.m.  \text{Option B}|A  \sqrt[3]{-8}|2  \sqrt[3]{-8}|1+\sqrt{3}i"
).split("  ")


def both_ways(grader, pair):
    a, b = pair.split("|")
    return [grader.grade("math", gold, f"so $\\boxed{{{answer}}}$.").correct for gold, answer in ((a, b), (b, a))]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", SAME)
def test_answers_that_are_the_same(pool, kind, fast):
    grader = Grader(pool, fast=fast)
    assert {pair: both_ways(grader, pair) for pair in SAME[kind]} == {pair: [True, True] for pair in SAME[kind]}


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("[-1,1]", r"|x| \le 1", True),
        ("(-3,3)", r"|x|\leq 3", False),
        (r"(-\infty,-3)\cup(3,\infty)", "|x|>3", True),
        (r"(-\infty,-3]\cup[3,\infty)", r"|t| \ge 3", True),
        ("|x|", r"\sqrt{x^2}", True),
    ],
)
def test_bounds_of_an_absolute_value_are_intervals(pool, gold, answer, same):
    for a, b in ((gold, answer), (answer, gold)):
        assert Grader(pool).grade("math", a, rf"\boxed{{{b}}}").correct is same


@pytest.mark.parametrize("fast", [True, False])
def test_answers_that_differ(pool, fast):
    grader = Grader(pool, fast=fast)
    assert {pair: both_ways(grader, pair) for pair in DIFFERENT} == {pair: [False, False] for pair in DIFFERENT}


@pytest.mark.parametrize(
    "output",
    [
        r"\boxed{\frac{3}{4}}",
        r"The answer is $\frac34$.",
        r"**Answer:** $\dfrac{3}{4}$",
        "#### 3/4",
        "A: 0.75",
        r"$x=\boxed{\frac{1}{2}}$ or rather \[\boxed{\frac{3}{4}}\]",
        "<think>The answer is 5.</think> The final answer is $0.75$. I hope it is correct.",
        r"\boxed{p = \frac{3}{4} \approx 0.8}",
        r"\\boxed{\\frac{3}{4}}",
    ],
)
@pytest.mark.parametrize("gold", [r"\frac{3}{4}", r"$\frac{3}{4}$", r"\boxed{\frac34}", r"We get $\boxed{\frac{3}{4}}.$", "#### 3/4"])
def test_golds_and_outputs_in_every_dress(pool, gold, output):
    assert Grader(pool).grade("math", gold, output, strict=True).correct is True


def test_what_cannot_be_decided_is_none_and_everything_is_counted(pool):
    grader = Grader(pool)
    assert grader.grade("math", "", r"\boxed{1}").correct is None
    assert grader.grade("math", r"\frac{1}{2", r"\boxed{1}").correct is None
    assert grader.grade("math", r"\sqrt{2}", "I do not know.", strict=True).correct is False
    assert grader.grade("math", r"\sqrt{2}", r"\boxed{\sqrt{+}}").correct is False
    assert grader.grade("math", r"\sqrt{2}", r"\boxed{9^{9^{9^{9}}}}").correct is None
    assert grader.counts == {"gold": 2, "no_answer": 1, "unparsed": 1, "time": 1}
    assert grader.grade("math", r"\sqrt{2}", r"\boxed{2^{1/2}}").correct is True, "the next question finds a worker"


NUMBERS = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.decimals(-100, 100, places=3).map(str),
    st.tuples(st.integers(-99, 99), st.integers(1, 99)).map(lambda p: rf"\frac{{{p[0]}}}{{{p[1]}}}"),
    st.integers(2, 99).map(lambda n: rf"\sqrt{{{n}}}"),
)
ATOMS = st.one_of(NUMBERS, st.sampled_from(["x", r"\pi", "x^2", r"\frac{x}{2}", "2x+1", r"\sin x"]))
SUMS = st.tuples(ATOMS, ATOMS).map(lambda p: f"{p[0]}+{p[1].removeprefix('-')}")
ANSWERS = st.one_of(
    ATOMS,
    SUMS,
    st.lists(ATOMS, min_size=2, max_size=4).map(lambda xs: f"({', '.join(xs)})"),
    st.lists(ATOMS, min_size=1, max_size=4).map(lambda xs: rf"\{{{', '.join(xs)}\}}"),
    st.tuples(st.sampled_from("(["), NUMBERS, NUMBERS, st.sampled_from(")]")).map(lambda p: f"{p[0]}{p[1]},{p[2]}{p[3]}"),
    st.tuples(NUMBERS, st.sampled_from(["cm", "apples", "hours", "square units"])).map(lambda p: rf"{p[0]}\text{{ {p[1]}}}"),
)
JUNK = st.lists(
    st.sampled_from(r"\frac \sqrt { } ( ) [ ] , ^ _ + - = < \le \text \pm \cup x y 1 23 . $ % \% \circ & \\ and or : « » | !".split())
).map("".join)
QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def decide(pool, a, b):
    return pool.submit(a, (b,)).result()


@QUIET
@given(answer=ANSWERS)
def test_every_answer_equals_itself_by_algebra_alone(pool, answer):
    assert decide(pool, answer, answer).equal == (True,), answer


@QUIET
@given(a=ANSWERS, b=ANSWERS)
def test_equality_is_symmetric(pool, a, b):
    assert decide(pool, a, b) == decide(pool, b, a)
    assert Grader(pool).grade("math", a, rf"\boxed{{{b}}}").correct == bool(decide(pool, a, b).equal[0])


@QUIET
@given(answer=ANSWERS, wrap=st.sampled_from(["${}$", r"\({}\)", "$$ {} $$", r"\boxed{{{}}}", " {} ", "{}.", r"\displaystyle {}", "{{{}}}"]))
def test_wrapping_changes_nothing(pool, answer, wrap):
    assert decide(pool, answer, wrap.format(answer)).equal == (True,)


@QUIET
@given(a=JUNK, b=JUNK)
def test_junk_is_graded_without_a_crash_and_symmetrically(pool, a, b):
    first, second = decide(pool, a, b), decide(pool, b, a)
    assert first.lost is None and first.equal == second.equal
    for answer_type in ("math", "number", "choice", "yes_no", "roles", "text"):
        Grader(pool).grade(answer_type, a, b)
