"""Sampled tokens: the right law, and nothing but a row's own numbers decides on its token."""

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from rsd_core import Sampling
from rsd_integrations.huggingface import load_generator
from rsd_integrations.huggingface.sampling import choose, distributions
from tests.huggingface.tiny import make_causal_lm


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_the_law_of_a_sampled_token(top_p: float) -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0])
    n = 4000
    uniforms = [random.Random(seed).random() for seed in range(n)]
    tokens = choose(logits.expand(n, 4), [Sampling(0.7, top_p)] * n, uniforms)[:, 0]
    law = torch.softmax(logits / 0.7, 0)
    if top_p < 1:
        law[[1, 3]] = 0  # the nucleus of 0.9 holds the first two
        law /= law.sum()
    seen = torch.bincount(tokens, minlength=4) / n
    assert torch.allclose(seen, law, atol=0.03)
    assert not ((seen > 0) & (law == 0)).any()


def of_transformers(logits: torch.Tensor, model: PreTrainedModel, sampling: Sampling) -> torch.Tensor:
    """What `generate` would draw from, by the processors that it makes itself, in its own order."""
    config = GenerationConfig(
        do_sample=True, temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p
    )
    processors = model._get_logits_processor(config, logits_processor=LogitsProcessorList())
    return processors(torch.zeros(len(logits), 1, dtype=torch.long), logits).softmax(-1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    return load_generator(str(make_causal_lm(tmp_path_factory.mktemp("model"), 3))).model


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 999),
    temperature=st.sampled_from([0.5, 1.0, 1.3]),
    top_p=st.sampled_from([0.25, 0.6, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 11, 12, 50]),
    ties=st.booleans(),
)
def test_the_law_is_that_of_transformers_generate(
    seed: int, temperature: float, top_p: float, top_k: int, ties: bool, model: PreTrainedModel
) -> None:
    """With top-k before top-p: in the other order the nucleus would be that of the whole distribution."""
    logits = torch.randn(5, 12, generator=torch.Generator().manual_seed(seed)) * 2
    if ties:  # all stay that are as likely as the k-th, in both
        logits, top_p = logits.round(), 1.0
    sampling = Sampling(temperature, top_p, top_k)
    found = distributions(logits, [sampling] * 5)
    assert torch.allclose(found, of_transformers(logits, model, sampling), atol=1e-6)
    numbers = [(i + 0.5) / 50 for i in range(50)]
    chosen = choose(logits[:1].expand(50, 12), [sampling] * 50, numbers)
    assert found[0, chosen].min() > 0


def test_top_k_comes_before_top_p() -> None:
    """Of 0.4, 0.3, 0.2 and 0.1 a nucleus of 0.5 has two tokens; of the first two alone it has one."""
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert distributions(logits, [Sampling(1.0, 0.5)]).count_nonzero() == 2
    assert distributions(logits, [Sampling(1.0, 0.5, 2)]).tolist() == [[1, 0, 0, 0]]


def test_temperature_zero_takes_the_largest() -> None:
    assert choose(torch.tensor([[0.0, 3.0, 1.0]]), [Sampling()], [0.99]).tolist() == [[1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_equals_the_first_is_taken_as_argmax_does(dtype: torch.dtype) -> None:
    logits = torch.randint(0, 5, (16, 3000), generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(choose(logits, [Sampling()] * 16, [0.0] * 16), logits.argmax(-1, keepdim=True))


@given(st.data())
def test_a_row_depends_on_itself_alone(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    logits = torch.randn(count, 9, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99)))) * 3
    samplings = [
        Sampling(
            data.draw(st.sampled_from([0.0, 0.5, 1.3])),
            data.draw(st.sampled_from([0.3, 0.9, 1.0])),
            data.draw(st.sampled_from([0, 1, 3, 8, 9, 40])),
        )
        for _ in range(count)
    ]
    uniforms = [data.draw(st.floats(0, 1, exclude_max=True)) for _ in range(count)]
    alone = [choose(logits[i : i + 1], [samplings[i]], [uniforms[i]]).item() for i in range(count)]
    assert choose(logits, samplings, uniforms)[:, 0].tolist() == alone


@given(st.floats(0, 1, exclude_max=True), st.sampled_from([0.2, 1.0]))
def test_a_token_without_weight_is_never_chosen(uniform: float, top_p: float) -> None:
    logits = torch.full((1, 50_000), -torch.inf)
    logits[0, [3, 40_000]] = torch.tensor([0.0, -1.0])
    assert choose(logits, [Sampling(1.0, top_p)], [uniform]).item() in ({3} if top_p < 0.5 else {3, 40_000})


@pytest.mark.parametrize("top_p", [0.9999, 1.0])
def test_the_largest_random_number_takes_a_token_that_has_weight(top_p: float) -> None:
    """In fp32 it is 1: without care it would point behind the last token."""
    logits = torch.tensor([[1.0, 0.0, -torch.inf, -torch.inf]])
    assert choose(logits, [Sampling(1.0, top_p)], [1 - 2**-53]).item() == 1


@pytest.mark.parametrize(("top_p", "token"), [(0.5, 0), (0.50001, 1)])
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(top_p: float, token: int) -> None:
    """Two tokens of one half each: the first reaches one half by itself."""
    logits = torch.tensor([[3.0, 3.0, -torch.inf]])
    assert choose(logits, [Sampling(1.0, top_p)], [0.99]).item() == token


def test_random_numbers_keep_their_precision_while_a_model_is_loaded() -> None:
    """transformers changes the default dtype of the process meanwhile, in whichever thread."""
    logits = torch.arange(5000).expand(64, -1) / 1e5
    uniforms = [random.Random(seed).random() for seed in range(64)]
    wanted = choose(logits, [Sampling(0.7, 0.95)] * 64, uniforms)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(choose(logits, [Sampling(0.7, 0.95)] * 64, uniforms), wanted)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("least", [5e-324, 1e-46, 1e-38])
@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_what_is_zero_in_fp32_takes_the_largest(least: float, uniform: float) -> None:
    logits = torch.tensor([[10.0, 30.0, -20.0, -torch.inf]])
    for sampling in (Sampling(least), Sampling(1.0, least), Sampling(4.0, least), Sampling(least, least)):
        assert choose(logits, [sampling], [uniform]).item() == 1
