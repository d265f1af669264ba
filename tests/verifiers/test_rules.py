"""Rules and programs: correct about what they can check, silent about the rest."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsd_core import ConfigurationError, Path, Step, as_prompt
from rsd_integrations.verifiers import Arithmetic, Confidence, Format, Repetition, equations

START = Path(as_prompt("q"))


def step(text: str, **options: object) -> Step:
    return Step(text, options.pop("ending", "delimiter"), **options)  # type: ignore[arg-type]


def judged(rule: Arithmetic | Format | Repetition, text: str, path: Path = START, **options: object) -> float | None:
    return asyncio.run(rule.score(path, [step(text, **options)])).rewards[0]


@pytest.mark.parametrize(
    "text",
    [
        "On Monday she buys 12 more: 45+12=57.",
        "She buys 56 more: 71+56=121+6=127.",
        "So $1,200 \\times 3 = 3{,}600$".replace("{,}", ","),
        "\\frac{3}{4} + \\frac{1}{4} = 1",
        "That is 10 / 3 = 3.33 each",
        "2 * (3 + 4) - 5 = 9, so we go on",
        "It costs $5 × 3 = $15 in all",
        "x = 3 + 4 = 7",
        "2^10 = 1024",
        "(0 - 3) + 5 = 2",
        "we get \\boxed{3 + 4 = 7}",
        "7 = 3 + 4",
        "10/3 ≈ 3 each",
        "1000/3 \\approx 333",
        "2000/3 ≈ 670 or so",
        "19.8 * 5 ≈ 20 * 5 = 100",
        "1,500 + 500 = 2,000, as expected",
        "7 = 8 - 1, and 7 ÷ 2 = 3 remainder 1",
    ],
)
def test_right_arithmetic_is_right(text: str) -> None:
    assert judged(Arithmetic(), text) == 1


@pytest.mark.parametrize(
    "text",
    [
        "45+12=58.",
        "71+56=121+6=128.",
        "5 * 3 = 14 apples",
        "10 / 3 = 3.34 each",
        "3 + 4 = 7 and 2 + 2 = 5",
        "\\frac{1}{2} + \\frac{1}{4} = \\frac{2}{6}",
        "2^10 = 1000",
        "x = 3 + 4 = 8",
        "10/3 = 3 each",
        "10/3 ≈ 4 each",
        "10/3 ≈ 0 each",
        "2000/3 ≈ 660 or so",
        "1,500 + 500 = 2,001",
    ],
)
def test_wrong_arithmetic_is_wrong(text: str) -> None:
    assert judged(Arithmetic(), text) == 0


@pytest.mark.parametrize(
    "text",
    [
        "She has some apples.",
        "2x + 3 = 7",
        "x - 3 = 4",
        "sin 30 + 1 = 1.5",
        "\\sqrt{9} - 1 = 2",
        "5 times 3 + 1 = 16",
        "f(2) + 1 = 6",
        "3 + 4 = 7 million",
        "3 + 4 = 2y",
        "it is 3:30 + 1 = 4:30",
        "5 = 5",
        "20% of 50 = 10",
        "1 / 0 = 3",
        "9^9^9^9 = 1",
        "((((((1",
        "a = b",
        "4 * 5! = 480",
        "7 ÷ 2 = 3 remainder 1",
        "7 / 2 = 3, remainder 1.",
        "7 / 2 = 3 R1",
        "7 / 2 = 3 with a remainder of 1",
        "7 / 2 = 3 with 1 left over",
        "7 \\div 2 = 3 \\text{ R } 1",
        "1,5 + 1 = 2,5",
        "0,250 * 0,500 = 0,125",
        "3 * 0,5 = 1,5",
        "19.8 * 5 ≈ 20 * 5",
    ],
)
def test_only_plain_arithmetic_is_checked(text: str) -> None:
    assert judged(Arithmetic(), text) is None


@given(st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 99)), min_size=1, max_size=5), st.integers(1, 9))
def test_any_equation_is_judged_as_python_does(terms: list[tuple[str, int]], off: int) -> None:
    left = "7" + "".join(f" {op} {n}" for op, n in terms)
    value = eval(left)
    assert equations(f"so {left} = {value}.")[0][1]
    assert not equations(f"so {left} = {value + off}.")[0][1]


@given(st.text(alphabet="0123456789+-*/^()=. x\\,{}$:%", max_size=60))
def test_no_text_makes_the_rule_fail(text: str) -> None:
    assert judged(Arithmetic(), text) in (0.0, 1.0, None)


def test_form_is_judged_only_where_it_is_broken() -> None:
    assert judged(Format(), "fine \\boxed{1}") is None
    assert judged(Format(), "broken \\boxed{1") == 0
    assert judged(Format(), "broken }") == 0
    assert judged(Format(), "a set \\{1") is None
    assert judged(Format(), "```python\nd = {\n```") is None
    assert judged(Format(max_chars=3), "long") == 0
    assert judged(Format(), "cut", ending="length") == 0
    assert judged(Format(pattern="^Step"), "Stop") == 0
    assert judged(Format(answer=r"\\boxed"), "done", ending="end") == 0
    assert judged(Format(answer=r"\\boxed"), "\\boxed{1}", ending="end") is None
    with pytest.raises(ConfigurationError, match="regular expression"):
        Format(pattern="(")


def test_repetition_is_seen_within_and_across_steps() -> None:
    path = START.extend(step("She has 3.\n\n")).extend(step("She has 4.\n\n"))
    assert judged(Repetition(), "She  has 3.", path) == 0
    assert judged(Repetition(), "She has 5.", path) is None
    assert judged(Repetition(), "and so on and so on and so on and so on", path) == 0
    assert judged(Repetition(times=3), "no no yes no no", path) is None


def test_confidence_is_what_the_drafter_told() -> None:
    told = step("a", tokens=(1, 2), logprobs=(-0.1, -0.7))
    (least,) = asyncio.run(Confidence("min").score(START, [told])).rewards
    (mean,) = asyncio.run(Confidence("mean").score(START, [told])).rewards
    assert (least, mean) == pytest.approx((0.4966, 0.6703), abs=1e-4)
    with pytest.raises(ConfigurationError, match="its steps carry none"):
        asyncio.run(Confidence().score(START, [told, step("a")]))
