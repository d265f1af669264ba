"""The embedded task: problems are solvable as written, and the judge is exact."""

import itertools
import random
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsd_core import boxed
from rsd_integrations.embedded.checker import is_right, judge
from rsd_integrations.embedded.task import Problem, equation, generate, problems

seeds = st.integers(0, 2**32)


def problem(seed: int) -> Problem:
    return generate(random.Random(seed))


def solve(question: str) -> int:
    """An independent reading of the question's words, knowing nothing of the plan."""
    sentences = re.split(r"(?<=[.?]) ", question)
    start = value = int(re.findall(r"\d+", sentences[0])[0])
    for sentence in sentences[1:]:
        numbers = [int(n) for n in re.findall(r"\d+", sentence)]
        if "than at the start" in sentence:
            return value - start
        if "coins each" in sentence:
            return value * numbers[0]
        if re.search(r"bags of|boxes of", sentence):
            value += numbers[0] * numbers[1]
        elif "times as many" in sentence:
            value *= numbers[0]
        elif "only one part" in sentence:
            share = Fraction(value, numbers[0])
            assert share.denominator == 1
            value = int(share)
        elif re.search(r"buys|finds|wins|picks up|as a gift", sentence):
            value += numbers[0]
        elif re.search(r"gives away|sells|loses|uses up|breaks", sentence):
            value -= numbers[0]
    return value


@given(seeds)
def test_the_answer_follows_from_the_words(seed: int) -> None:
    made = problem(seed)
    assert solve(made.question) == made.answer


@given(seeds)
def test_the_reference_solution_is_right_and_readable(seed: int) -> None:
    made = problem(seed)
    steps = made.solution()
    assert all(verdict.right for verdict in judge(made, steps))
    assert [verdict.reference for verdict in judge(made, steps)] == [step.strip() for step in steps]
    assert is_right(made, "".join(steps))
    assert all(step.endswith(".\n\n") for step in steps[:-1])


@given(seeds, st.randoms())
def test_one_changed_digit_makes_exactly_that_step_wrong(seed: int, rng: random.Random) -> None:
    made = problem(seed)
    steps = made.solution()
    i = rng.randrange(len(steps))
    at = rng.choice([k for k, char in enumerate(steps[i]) if char.isdigit()])
    digit = str((int(steps[i][at]) + rng.randint(1, 9)) % 10)
    steps[i] = steps[i][:at] + digit + steps[i][at + 1 :]
    verdicts = [verdict.right for verdict in judge(made, steps)]
    assert verdicts[: i + 1] == [True] * i + [False]


def test_a_slip_is_charged_once() -> None:
    made = next(p for p in (problem(s) for s in itertools.count()) if len(p.plan()) >= 3 and p.plan()[1].op == "+")
    steps = made.solution()
    slipped = int(re.findall(r"=(\d+)\.", steps[0])[0]) + 1
    steps[0] = re.sub(r"=\d+\.\n\n$", f"={slipped}.\n\n", steps[0])
    steps[1] = judge(made, steps)[1].reference  # carries the slip on, correctly
    assert str(slipped) in steps[1]
    assert [verdict.right for verdict in judge(made, steps)[:2]] == [False, True]


def test_other_ways_through_the_same_sum_are_right() -> None:
    made = next(p for p in (problem(s) for s in itertools.count()) if p.solution()[0].count("=") == 2)
    direct = re.sub(r"=\d+[+*-]\d+=", "=", made.solution()[0])
    assert judge(made, [direct])[0].right
    assert not judge(made, [direct.replace("=", "=1+1=")])[0].right


@pytest.mark.parametrize("damage", ["skip", "foreign", "no number", "after the answer"])
def test_leaving_the_plan_ends_the_judgement(damage: str) -> None:
    made = problem(5)
    steps = made.solution()
    if damage == "skip":
        steps = steps[1:]
    elif damage == "foreign":
        steps[0] = "It rains: 1+1=2.\n\n"
    elif damage == "no number":
        steps[0] = steps[0].split(":")[0] + ": nothing.\n\n"
    else:
        steps.append("And more.")
        assert len(judge(made, steps)) == len(steps) - 1
        return
    assert [verdict.right for verdict in judge(made, steps)] == [False]


def test_splits_never_meet() -> None:
    """No held-out problem can have been trained on, whatever seed the training had, and none is drawn twice."""
    drawn = {split: list(itertools.islice(problems(split, 3), 2000)) for split in ("train", "dev", "test")}
    keys = {split: {p.key for p in found} for split, found in drawn.items()}
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["dev"]
    assert not keys["dev"] & keys["test"]
    assert len(keys["test"]) == len(keys["dev"]) == 2000
    assert len({p.question for p in drawn["test"]}) == 2000
    assert all(p.split == split for split, found in drawn.items() for p in found)


def test_the_split_is_a_function_of_the_numbers_alone() -> None:
    """Another name or another thing does not move a problem to another split."""
    made = problem(11)
    renamed = Problem(made.question.replace("a", "o"), made.start, made.events, made.ask, made.price)
    assert (renamed.key, renamed.split) == (made.key, made.split)


def test_a_stream_is_a_function_of_its_seed() -> None:
    first, again = (list(itertools.islice(problems("test", 9), 50)) for _ in range(2))
    assert first == again
    assert first != list(itertools.islice(problems("test", 10), 50))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\\boxed{5}", "5"),
        ("\\boxed{1} and \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{1} and \\boxed{unclosed", "1"),
        ("no box", None),
        ("\\boxed{ 7 }", "7"),
    ],
)
def test_boxed(text: str, found: str | None) -> None:
    assert boxed(text) == found


@given(st.integers(2, 300), st.sampled_from("+-*"), st.integers(2, 60))
def test_equations_are_sound(value: int, op: str, n: int) -> None:
    terms = equation(value, op, n).split("=")
    assert len({eval(term) for term in terms}) == 1
    assert terms[0] == f"{value}{op}{n}"
