"""Objects travel to other processes as their configuration, or say that they cannot."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from ray import cloudpickle

from rsd_core import (
    BatchError,
    ConfigurationError,
    MissingDependency,
    Price,
    RewardGuidedDecoder,
    RSDConfig,
    RunError,
    load,
)
from rsd_core.model import Usage
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.huggingface import load_generator, load_verifier
from rsd_integrations.langchain import RSDLLM, ChatRSD, RSDRunnable
from rsd_integrations.llamaindex import RSDLLM as LlamaIndexRSD  # noqa: N811
from rsd_integrations.openai_compatible.errors import EndpointError, Refused

SERVER = "openai,concurrency=4:m@http://127.0.0.1:9/v1"
QUESTION = "What is 2+2?"


@pytest.fixture(params=[pickle, cloudpickle], ids=["pickle", "cloudpickle"])
def sent(request: pytest.FixtureRequest) -> Any:
    """An object as it arrives in another process; what Ray sends goes by cloudpickle."""
    return lambda thing: pickle.loads(request.param.dumps(thing))


@pytest.mark.parametrize(
    "spec", ["embedded:draft", "embedded:verifier", "scripted:verifier", SERVER, f"judge:{SERVER}", "rule:arithmetic"]
)
def test_a_model_travels_as_its_spec(spec: str, sent: Any) -> None:
    model = load(spec)
    arrived = sent(sent(model))
    assert type(arrived) is type(model)
    assert arrived.name == model.name
    assert len(cloudpickle.dumps(model)) < 400


@pytest.mark.parametrize("method", ["rsd", "majority:2", "specreason:7", "first_steps:2", "target"])
def test_a_decoder_answers_elsewhere_as_it_does_here(method: str, sent: Any) -> None:
    decoder = RSDConfig.parse({"method": method, "settings": {"temperature": 0.7, "seed": 3}}).build()
    assert sent(decoder).run(QUESTION).raw_text == decoder.run(QUESTION).raw_text


def test_what_a_policy_learned_stays_and_its_data_go(sent: Any) -> None:
    decoder = RSDConfig.parse({"policy": "first_steps:1/budget_aware:0.2"}).build()
    decoder.run(QUESTION)
    arrived = sent(decoder)
    assert isinstance(arrived, RewardGuidedDecoder)
    assert isinstance(decoder, RewardGuidedDecoder)
    assert arrived.policy == decoder.policy


def test_a_price_put_on_a_model_goes_with_it(sent: Any) -> None:
    target = load(SERVER)
    target.price = Price(3.0, 15.0)
    assert sent(target).price == Price(3.0, 15.0)


def test_roles_that_share_a_model_share_it_on_arrival(sent: Any) -> None:
    model = load("embedded:target")
    decoder = RewardGuidedDecoder(drafter=model, verifier=load("rule:arithmetic"), target=model)
    arrived = sent(decoder)
    assert arrived.drafter is arrived.target


@pytest.mark.parametrize("adapter", [ChatRSD, RSDLLM, RSDRunnable, LlamaIndexRSD])
def test_adapters_travel_before_and_after_they_were_used(adapter: Any, sent: Any) -> None:
    def ask(model: Any) -> Any:
        return str(model.complete(QUESTION) if adapter is LlamaIndexRSD else getattr(model.invoke(QUESTION), "text", 1))

    fresh = adapter()
    arrived = sent(fresh)
    expected = ask(fresh)
    assert ask(arrived) == ask(sent(fresh)) == expected
    given = adapter(decoder=RSDConfig().build())
    assert ask(sent(given)) == expected


@pytest.mark.parametrize(
    "load_model", [lambda: load_generator(str(FOLDER / "draft")), lambda: load_verifier(str(FOLDER / "prm"))]
)
def test_weights_that_no_spec_names_are_refused_with_the_way_out(load_model: Any, sent: Any) -> None:
    with pytest.raises(pickle.PicklingError, match=r"load\('hf:…'\).*or send the RSDConfig"):
        sent(load_model())


def test_a_copy_of_a_model_is_not_loaded_again_and_does_not_pass_for_the_first() -> None:
    model = load("embedded:draft")
    other = copy.copy(model)
    assert other.runner is model.runner
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(other)


def test_keys_stay_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-not-to-be-sent")
    decoder = RSDConfig.parse(
        {"drafter": "openai,key_env=SOME_KEY:m@http://127.0.0.1:9/v1", "verifier": "rule:arithmetic", "target": SERVER}
    ).build()
    for pickled in (pickle.dumps(decoder), cloudpickle.dumps(decoder)):
        assert b"sk-not-to-be-sent" not in pickled
        assert b"SOME_KEY" in pickled


def test_errors_arrive_as_they_were_raised(sent: Any) -> None:
    failed = EndpointError("the server is away", outage=True)
    failed.usage = Usage(7, 7, parts=((load("scripted:draft"), Usage(7, 7)),))
    failed.partial = (
        RSDConfig(drafter="scripted:draft", verifier="scripted:verifier", target="scripted:target").build().run("q")
    )
    errors: list[Exception] = [
        ConfigurationError("no"),
        MissingDependency("torch", "huggingface", "hf:x"),
        Refused("too long", 413, "context length"),
        RunError("failed", usage=Usage(3)),
        BatchError([failed.partial], {0: failed}),
        failed,
    ]
    for error in errors:
        arrived = sent(error)
        assert (type(arrived), str(arrived)) == (type(error), str(error))
    arrived = sent(failed)
    assert (arrived.outage, arrived.partial.text) == (True, failed.partial.text)
    assert arrived.usage == Usage(7, 7)  # the models whose work it was stay where they are
