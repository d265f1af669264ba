"""Graders: correct answers pass however they are written, and wrong ones do not."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rsd_integrations.evaluation.graders import GRADERS, auto, exact, kind_of, math, number
from rsd_integrations.evaluation.quantities import quantity
from rsd_integrations.final_answers import stated

PAIRS: dict[str, dict[str, list[tuple[str, str]]]] = yaml.safe_load(
    (Path(__file__).parent / "grading_pairs.yaml").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("verdict", ["right", "wrong"])
def test_pairs_of_each_kind(kind: str, verdict: str) -> None:
    pairs = PAIRS[kind][verdict]
    assert [(reference, kind_of(reference)) for reference, _ in pairs] == [(reference, kind) for reference, _ in pairs]
    judged = [(reference, text, GRADERS[kind](reference, text)) for reference, text in pairs]
    assert [one for one in judged if one[2] is not (verdict == "right")] == []


def test_there_are_pairs_enough() -> None:
    assert sum(len(pairs) for verdicts in PAIRS.values() for pairs in verdicts.values()) >= 300
    assert all(len(pairs) >= 20 for verdicts in PAIRS.values() for pairs in verdicts.values())


@pytest.mark.parametrize("kind", PAIRS)
def test_a_reference_is_a_right_answer_to_itself_and_an_empty_text_to_none(kind: str) -> None:
    references = {reference for pairs in PAIRS[kind].values() for reference, _ in pairs}
    assert [one for one in references if not auto(one, f"Let me think.\n\nSo it is \\boxed{{{one}}}.")] == []
    assert [one for one in references if auto(one, "")] == []


@given(
    st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9), st.sampled_from(["{:d}", "{:,d}", "${:,d}", "{:d}.0"])
)
@settings(max_examples=200, deadline=None)
def test_whole_numbers_are_equal_where_they_are_the_same(a: int, b: int, form: str) -> None:
    assert number(str(a), f"\\boxed{{{form.format(b)}}}") is (a == b)


@given(st.fractions(max_denominator=1000))
@settings(max_examples=200, deadline=None)
def test_a_mixed_number_is_its_fraction(value: object) -> None:
    top, bottom = value.numerator, value.denominator  # type: ignore[attr-defined]
    whole, rest = divmod(abs(top), bottom)
    mixed = f"{'-' if top < 0 else ''}{whole} {rest}/{bottom}"
    found = quantity(mixed)
    assert found is not None
    assert found.value == value


@given(st.text(max_size=300), st.sampled_from([pairs[0][0] for one in PAIRS.values() for pairs in one.values()]))
@settings(max_examples=300, deadline=None)
def test_no_text_is_too_odd_to_be_read(text: str, reference: str) -> None:
    stated(text)
    assert kind_of(text) in PAIRS
    if kind_of(reference) != "math":
        assert auto(reference, text) in (True, False)


def test_a_long_text_takes_no_time() -> None:
    for text in ("1" * 10**6, "\\boxed{" * 10**4, "answer is " * 10**5, "{" * 10**6, "1 " * 10**5, "a. " * 10**5):
        for reference in ("5", "B", "yes", "Paris"):
            assert auto(reference, text) is False


def test_graders_by_name() -> None:
    assert exact("10", "it is \\boxed{ 10 }")
    assert exact("yes", " yes ")
    assert not exact("007", "\\boxed{7}")
    assert not exact("10", "\\boxed{10.0}")
    assert GRADERS["choice"]("Paris", "\\boxed{Paris}")  # no letter: as it is written
    assert GRADERS["number"]("x+1", "\\boxed{1+x}")  # no number: by mathematics
    for reference, text, right in (
        ("\\frac{1}{2}", "so it is \\boxed{0.5}", True),
        ("72", "first \\boxed{72}, no: \\boxed{70}", False),
        ("18", "no box, but 18", True),
        ("18", "\\boxed{> 18}", False),
        ("> 18", "\\boxed{>18}", True),
        ("18", "", False),
    ):
        assert math(reference, text) is right
