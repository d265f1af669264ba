"""Sampled tokens: the same as of the transformers engine for the same logits and random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsd_core import Sampling
from rsd_integrations.huggingface.sampling import choose as choose_torch
from rsd_integrations.llamacpp.sampling import choose

SAMPLINGS = st.builds(
    Sampling,
    st.sampled_from([0.0, 0.2, 0.7, 1.0, 1.3]),
    st.sampled_from([0.3, 0.5, 0.9, 1.0]),
    st.sampled_from([0, 1, 2, 20, 556, 5000]),
)


@given(st.integers(0, 2**20), st.sampled_from([2, 9, 557, 4000]), SAMPLINGS, st.floats(0, 1, exclude_max=True))
def test_tokens_are_those_of_torch(seed: int, vocabulary: int, sampling: Sampling, uniform: float) -> None:
    """But for numbers so near to the border of two tokens that the exponential's last digit decides."""
    logits = (np.random.default_rng(seed).normal(0, 3, vocabulary)).astype(np.float32)
    wanted = {
        int(choose_torch(torch.from_numpy(logits)[None], [sampling], [near])[0, 0])
        for near in (uniform, max(0.0, uniform - 2e-6), min(1 - 2**-53, uniform + 2e-6))
    }
    assert choose(logits, sampling, uniform) in wanted


@given(
    st.integers(2, 40), st.floats(0, 1, exclude_max=True), st.sampled_from([0.25, 0.5, 1.0]), st.sampled_from([0, 1, 3])
)
def test_equal_tokens_are_told_apart_alike(count: int, uniform: float, top_p: float, top_k: int) -> None:
    logits = np.zeros(2 ** (count % 6 + 1), np.float32)  # powers of two: sums are exact
    wanted = choose_torch(torch.from_numpy(logits)[None], [Sampling(1.0, top_p, top_k)], [uniform])
    assert choose(logits, Sampling(1.0, top_p, top_k), uniform) == int(wanted[0, 0])


@pytest.mark.parametrize(("top_p", "tokens"), [(1.0, {1, 3}), (0.5, {3})])
def test_top_k_comes_before_top_p(top_p: float, tokens: set[int]) -> None:
    logits = np.log(np.array([0.2, 0.3, 0.1, 0.4], np.float32))
    drawn = {choose(logits, Sampling(1.0, top_p, 2), (i + 0.5) / 20) for i in range(20)}
    assert drawn == tokens


@pytest.mark.parametrize("top_p", [0.9999, 1.0])
def test_the_largest_random_number_takes_a_token_that_has_weight(top_p: float) -> None:
    logits = np.array([1.0, 0.0, -np.inf, -np.inf], np.float32)
    assert choose(logits, Sampling(1.0, top_p), 1 - 2**-53) == 1


@pytest.mark.parametrize("least", [5e-324, 1e-46, 1e-38])
@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_what_is_zero_in_fp32_takes_the_largest(least: float, uniform: float) -> None:
    logits = np.array([10.0, 30.0, -20.0, -np.inf], np.float32)
    for sampling in (Sampling(least), Sampling(1.0, least), Sampling(4.0, least), Sampling(least, least)):
        assert choose(logits, sampling, uniform) == 1
