"""Every usual spelling of a rational number is that number and no other."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from tasks.math_equivalence import compare, plain_leaf, rational


def spellings(value: Fraction) -> list[str]:
    sign, p, q = "-" if value < 0 else "", abs(value.numerator), value.denominator
    found = [f"{sign}{p}/{q}", rf"{sign}\frac{{{p}}}{{{q}}}", rf"{sign}\dfrac{{{3 * p}}}{{{3 * q}}}", rf"\tfrac{{{sign}{p}}}{{{q}}}"]
    if q == 1:
        found += [f"{sign}{p}", f"{sign}{p}.0", f"{sign}{p:,}", rf"{sign}{p}\text{{ units}}"]
    elif p > q:
        found += [rf"{sign}{p // q}\frac{{{p % q}}}{{{q}}}", f"{sign}{p // q} {p % q}/{q}"]
    if set_of_primes(q) <= {2, 5}:
        found += [sign + decimal(p, q), f"${sign}{decimal(p, q)}$"]
    return found


def set_of_primes(n: int) -> set[int]:
    return {d for d in range(2, n + 1) if n % d == 0 and all(d % e for e in range(2, d))}


def decimal(p: int, q: int) -> str:
    scaled = str(p * 10**12 // q).rjust(13, "0")
    return f"{scaled[:-12]}.{scaled[-12:]}".rstrip("0").rstrip(".")


VALUES = st.fractions(min_value=-2000, max_value=2000, max_denominator=60)


@given(VALUES)
def test_all_are_the_number(value: Fraction) -> None:
    written = spellings(value)
    wrong = [(a, b) for a in written for b in written if compare(a, b, plain_leaf) is not True]
    assert wrong == []


@given(VALUES, st.sampled_from([Fraction(1), Fraction(-1), Fraction(1, 7), Fraction(9)]))
def test_none_is_another(value: Fraction, apart: Fraction) -> None:
    other = value + apart
    if value in (100 * other, other * Fraction(1, 100)):
        return
    wrong = [(a, b) for a in spellings(value) for b in spellings(other) if compare(a, b, plain_leaf) is not False]
    assert wrong == []


@given(VALUES)
def test_the_exact_value(value: Fraction) -> None:
    assert rational(f"{value.numerator}/{value.denominator}") == value
