"""Log-probabilities of a server's text, for `confidence:`: available in every mode, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rsd_core import ConfigurationError, Path, RewardGuidedDecoder, Step, StepRequest, as_prompt
from rsd_core.blocking import wait_for
from rsd_integrations.huggingface import HuggingFaceGenerator
from rsd_integrations.openai_compatible import OpenAIGenerator
from rsd_integrations.verifiers import Confidence
from tests.openai_compatible.server import Habits

Connect = Callable[..., OpenAIGenerator]
REQUEST = StepRequest((0,), 40)


def step_of(model: OpenAIGenerator | HuggingFaceGenerator, question: str) -> Step:
    return wait_for(model.generate(Path(as_prompt(question)), REQUEST)).steps[0]


@pytest.mark.parametrize(
    ("kind", "options"),
    [("vllm", {}), ("llamacpp", {}), ("vllm", {"tokenizer": None}), ("llamacpp", {"tokenizer": None})],
)
def test_those_of_a_step_are_those_in_process(
    servers: dict[str, Habits],
    connect: Connect,
    draft: HuggingFaceGenerator,
    questions: list[str],
    kind: str,
    options: dict[str, Any],
) -> None:
    wanted, made = step_of(draft, questions[0]), step_of(connect(servers[kind], logprobs=True, **options), questions[0])
    assert (made.text, made.ending) == (wanted.text, "delimiter")
    assert made.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)


def test_a_server_that_tells_none_is_not_asked_to_write(servers: dict[str, Habits], connect: Connect) -> None:
    with pytest.raises(ConfigurationError, match=r"logprobs=true: .* reports no log-probabilities"):
        step_of(connect(servers["ollama"], None, logprobs=True), "Mia has 4 apples.")
    assert servers["ollama"].requests == []


def test_a_gateway_that_drops_them_is_named(
    vllm: Habits, connect: Connect, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Habits, "likely", lambda *_: None)
    with pytest.raises(ConfigurationError, match="returned no log-probabilities although requested"):
        step_of(connect(vllm, logprobs=True), questions[0])


def test_confidence_over_steps_without_them_is_refused_at_the_first_step(
    vllm: Habits, connect: Connect, questions: list[str]
) -> None:
    model = connect(vllm)
    with pytest.raises(ConfigurationError, match=r"logprobs=true in its spec"):
        RewardGuidedDecoder(drafter=model, verifier=Confidence(), target=model).run(questions[0])
    assert len(vllm.requests) == 1
