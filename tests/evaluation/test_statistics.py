"""Intervals and tests against independent computations."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rsd_integrations.evaluation.plots import pareto
from rsd_integrations.evaluation.statistics import bootstrap, compare, interval, mcnemar, wilson


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_sign_test(first: int, second: int) -> None:
    n = first + second
    tail = sum(math.comb(n, k) for k in range(min(first, second) + 1)) / 2**n
    assert mcnemar(first, second) == pytest.approx(min(1.0, 2 * tail))
    if n:
        assert mcnemar(first, second) == pytest.approx(stats.binomtest(first, n, 0.5).pvalue)


def test_mcnemar_copes_with_more_disagreements_than_floats_hold() -> None:
    assert mcnemar(1900, 2100) == pytest.approx(stats.binomtest(1900, 4000, 0.5).pvalue)
    assert mcnemar(0, 4000) == 0


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_those_of_the_literature(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_wilson_interval_holds_the_proportion_and_its_mirror_image_is_the_failures(counts: tuple[int, int]) -> None:
    right, n = counts
    low, high = wilson(right, n)
    assert 0 <= low <= right / n <= high <= 1
    assert wilson(n - right, n) == pytest.approx((1 - high, 1 - low))
    theirs = stats.binomtest(right, n, 0.5).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((theirs.low, theirs.high))
    # The ends are where a proportion is just not refuted: |p̂ - p| = z √(p (1 - p) / n), with z of 95 %.
    for end in {low, high} - {0.0, 1.0}:
        assert abs(right / n - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), rel=1e-4, abs=1e-9)


def test_nothing_counted_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="nor greater"):
        wilson(2, 1)


def test_the_bootstrap_interval_agrees_with_scipy_and_keeps_pairs_together() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(2, 1, (300, 1))
    mine = interval(bootstrap(values)[:, 0] / 300)
    theirs = stats.bootstrap((values[:, 0],), np.mean, method="percentile", rng=1).confidence_interval
    assert mine == pytest.approx((theirs.low, theirs.high), abs=0.02)
    pairs = bootstrap(np.column_stack([values[:, 0], -values[:, 0]]))
    assert np.allclose(pairs[:, 0], -pairs[:, 1])


def test_a_comparison_of_paired_outcomes() -> None:
    rng = random.Random(1)
    hard = [rng.random() for _ in range(500)]
    first = [(h < 0.8, 10.0, 5.0) for h in hard]
    second = [(h < 0.7, 40.0, None) for h in hard]
    found = compare(first, second)
    gained = sum(0.7 <= h < 0.8 for h in hard)
    assert (found.only_first, found.only_second) == (gained, 0)
    assert found.difference == gained / 500
    assert found.ci95[0] > 0
    assert found.p_value == pytest.approx(2 / 2**gained)
    assert found.fewer_flops == 4
    assert found.fewer_flops_ci95 == pytest.approx((4, 4))
    assert found.fewer_flops_paper is None
    # Unpaired, the same accuracies would not be told apart so surely.
    half = (found.ci95[1] - found.ci95[0]) / 2
    assert half < 1.96 * math.sqrt(0.8 * 0.2 / 500 + 0.7 * 0.3 / 500)


def test_equal_methods_are_equal() -> None:
    same = [(i % 3 == 0, 1.0, 1.0) for i in range(30)]
    found = compare(same, same)
    assert (found.difference, found.p_value, found.ci95) == (0, 1, (0, 0))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_no_point_beats_the_pareto_front(costs: list[tuple[int, int]]) -> None:
    points = [(str(i), float(cost), float(right), (0.0, 1.0)) for i, (cost, right) in enumerate(costs)]
    front = pareto(points)
    for name, cost, right, _ in points:
        beaten = any(c <= cost and r >= right and (c, r) != (cost, right) for _, c, r, _ in points)
        on_front = (cost, right) in {(c, r) for _, c, r, _ in front}
        assert on_front != beaten, name
