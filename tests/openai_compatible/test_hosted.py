"""Hosted APIs by their documents: strict about fields, each with its own place for thoughts."""

from collections.abc import Callable, Iterator
from pathlib import Path as Folder
from typing import Any

import pytest
import yaml

from rsd_core import (
    ConfigurationError,
    Limits,
    Path,
    RSDConfig,
    Sampling,
    Settings,
    Step,
    StepRequest,
    TargetOnly,
    as_prompt,
    load,
)
from rsd_core.blocking import wait_for
from rsd_integrations.openai_compatible import OpenAIGenerator
from rsd_integrations.openai_compatible.hosted import HOSTED
from rsd_integrations.openai_compatible.profiles import PROFILES, hosted_at
from tests.openai_compatible.hosted import ANSWER, THOUGHT, VENDORS, Hosted, hosting

REAL = "https://api.openai.com/v1"
TURN = Settings(granularity="turn")
QUESTION = "What is 17 + 25?"
SHOWN = {"deepseek", "mistral", "bedrock", "huggingface", "openrouter", "groq", "together", "fireworks"}
"""Those that give thoughts without being asked for them."""
Connect = Callable[..., OpenAIGenerator]


@pytest.fixture
def api(request: pytest.FixtureRequest) -> Iterator[Hosted]:
    with hosting(request.param) as hosted:
        yield hosted


@pytest.fixture
def connect() -> Iterator[Connect]:
    made: list[OpenAIGenerator] = []

    def make(hosted: Hosted, profile: str | None = None, spec: str = "", **options: Any) -> OpenAIGenerator:
        named = f",profile={profile}" if profile else ""
        made.append(load(f"openai{named}{spec}:m@{hosted.url}", retries=0, **options))
        return made[-1]

    yield make
    for model in made:
        wait_for(model.aclose())


def test_every_profile_of_a_hosted_api_has_a_fake() -> None:
    assert {profile.name for profile in HOSTED} == {*VENDORS, "deepseek_beta"}


@pytest.mark.parametrize("api", VENDORS, indirect=True)
def test_a_profile_sends_what_its_api_takes_and_reads_what_it_gives(
    api: Hosted, connect: Connect, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    name = request.node.callspec.params["api"]
    decoder = TargetOnly(target=connect(api, name), settings=TURN)
    result = decoder.run(QUESTION)
    assert (result.text, result.finish_reason) == (ANSWER, "stop")
    assert result.thought == (THOUGHT if name in SHOWN else "")
    assert not result.degradations
    assert result.ledger.target.generated == len(ANSWER.split()) + (0 if name == "openai" else len(THOUGHT.split()))
    # The default limit may be more than the model writes; it is asked again then, and never again so.
    assert api.refused == (1 if VENDORS[name].most < 32768 else 0)
    decoder.run(QUESTION)
    assert api.refused == (1 if VENDORS[name].most < 32768 else 0)
    # Sampled answers have their own fields.
    drawn = Settings(granularity="turn", temperature=0.7, top_p=0.9, limits=Limits(max_tokens=100))
    assert TargetOnly(target=decoder.target, settings=drawn).run(QUESTION).text == ANSWER
    few, asked = drawn.updated(top_k=20), len(api.requests)
    if PROFILES[name].top_k:
        TargetOnly(target=decoder.target, settings=few).run(QUESTION)
        assert api.requests[-1]["top_k"] == 20
        return
    with pytest.raises(ConfigurationError, match=r"top_k=20 cannot reach .*omit=top_k leaves it out"):
        TargetOnly(target=decoder.target, settings=few).run(QUESTION)
    assert len(api.requests) == asked
    judged = StepRequest((0,), 100, None, few.sampling, needs_top_k=False)  # as a judge asks
    assert wait_for(decoder.target.generate(Path(as_prompt(QUESTION)), judged)).steps
    assert "top_k" not in api.requests[-1]
    assert "has no top-k, so it samples from all tokens instead of the likeliest 20" in caplog.text
    left_out = connect(api, name, ",omit=top_k")
    assert TargetOnly(target=left_out, settings=few).run(QUESTION).text == ANSWER


@pytest.mark.parametrize("api", ["openai_reasoning"], indirect=True)
@pytest.mark.parametrize("place", ["docs/guides/hosted.md", "cookbook/recipes/openai.yaml"])
def test_the_documented_configuration_of_openai_works(api: Hosted, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is written, at the fake's address; the profile is that of the real host."""
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    monkeypatch.setattr(
        "rsd_integrations.openai_compatible.server.hosted_at", lambda url, model: hosted_at(REAL, model)
    )
    text = (Folder(__file__).parents[2] / place).read_text()
    if place.endswith(".md"):
        text = text.partition('```yaml title="hosted.yaml"\n')[2].partition("```")[0]
    config = RSDConfig.parse(yaml.safe_load(text.replace(REAL, api.url)))
    with config.build() as decoder:
        result = decoder.run(QUESTION)
    assert (result.text, result.finish_reason, result.degradations) == (ANSWER, "stop", ())
    assert [step.author for step in result.steps] == ["draft"]
    assert result.steps[0].reward == 0.9
    assert api.refused == 0
    assert {request["reasoning_effort"] for request in api.requests} == {"minimal"}


@pytest.mark.parametrize("api", sorted(SHOWN), indirect=True)
def test_streams_are_read_as_whole_answers_are(
    api: Hosted, connect: Connect, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rsd_integrations.openai_compatible.answers import StepReader, read_answer
    from tests.openai_compatible.hosted import _events

    profile = next(one for one in HOSTED if one.name == request.node.callspec.params["api"])
    reply = api.reply({"messages": [{"role": "user", "content": QUESTION}]})
    reader = StepReader(profile)
    for event in _events(reply["choices"][0], reply["usage"]):
        assert not reader.take(event)
    assert reader.complete
    assert reader.answer == read_answer(reply, None, profile)
    assert reader.answer.text == f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"


@pytest.mark.parametrize("api", sorted(SHOWN), indirect=True)
def test_tokens_used_up_by_thoughts_end_the_answer_as_what_they_are(
    api: Hosted, connect: Connect, request: pytest.FixtureRequest
) -> None:
    short = Settings(granularity="turn", limits=Limits(max_tokens=4))
    result = TargetOnly(target=connect(api, request.node.callspec.params["api"]), settings=short).run(QUESTION)
    assert (result.text, result.answer, result.finish_reason) == ("", None, "max_tokens")
    assert result.thought == " ".join(THOUGHT.split()[:4])
    assert [note.kind for note in result.degradations] == ["no_answer"]


@pytest.mark.parametrize("api", ["openai_reasoning", "anthropic", "google"], indirect=True)
def test_tokens_used_up_by_thoughts_that_nobody_sees_are_not_a_full_context(
    api: Hosted, connect: Connect, request: pytest.FixtureRequest
) -> None:
    short = Settings(granularity="turn", limits=Limits(max_tokens=4))
    model = connect(api, request.node.callspec.params["api"], context=100_000)
    result = TargetOnly(target=model, settings=short).run(QUESTION)
    assert (result.text, result.finish_reason) == ("", "max_tokens")
    assert result.ledger.target.generated == 4


@pytest.mark.parametrize("api", ["openai_reasoning"], indirect=True)
def test_a_refusal_names_the_option_that_answers_it(api: Hosted, connect: Connect) -> None:
    path = Path(as_prompt(QUESTION))
    drawn = StepRequest((0,), 100, None, Sampling(0.7))

    def refusal(model: OpenAIGenerator) -> str:
        with pytest.raises(ConfigurationError) as caught:
            wait_for(model.generate(path, drawn))
        return str(caught.value)

    assert "give profile=openai_reasoning" in refusal(connect(api))
    told = refusal(connect(api, "openai"))
    assert "give omit=temperature" in told
    assert "omit=temperature+top_p+seed" in told
    assert "give omit=top_p" in refusal(connect(api, "openai", ",omit=temperature"))
    model = connect(api, "openai", ',omit=temperature+top_p+seed,body.reasoning_effort="low"')
    assert wait_for(model.generate(path, drawn)).steps[0].text == ANSWER
    assert api.requests[-1]["reasoning_effort"] == "low"
    assert "remove template" not in refusal(connect(api, "openai"))
    assert "body.verbosity" in refusal(connect(api, "openai_reasoning", ",body.verbosity=low"))


@pytest.mark.parametrize(
    ("api", "field"), [("mistral", "seed"), ("google", "seed"), ("groq", "max_tokens"), ("anthropic", "top_p")],
    indirect=["api"],
)  # fmt: skip
def test_the_field_is_found_in_each_vendors_words(api: Hosted, connect: Connect, field: str) -> None:
    with pytest.raises(ConfigurationError, match=r"HTTP 4\d\d.*Remedy: ") as caught:
        wait_for(connect(api).generate(Path(as_prompt(QUESTION)), StepRequest((0,), 100, None, Sampling(0.7))))
    assert getattr(caught.value, "field", None) == field


@pytest.mark.parametrize(
    ("api", "refused", "spec", "where", "off"),
    [
        ("openai_reasoning", "max_tokens", "profile=openai_reasoning", "nowhere", "body.reasoning_effort=none"),
        ("deepseek", "seed", "omit=seed", "`reasoning_content`", "body.thinking.type=disabled"),
        ("mistral", "seed", "omit=seed", "type `thinking`", "body.reasoning_effort=none"),
        ("openrouter", "", "openai:m", "`reasoning`", "body.reasoning.enabled=false"),
        ("fireworks", "", "openai:m", "`reasoning_content`", "body.reasoning_effort=none"),
        ("bedrock", "max_tokens", "", "<reasoning>", "nothing tried"),
    ],
    indirect=["api"],
)
def test_the_doctor_finds_fields_and_thoughts_and_writes_the_spec(
    api: Hosted, connect: Connect, refused: str, spec: str, where: str, off: str, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["api"]
    model = connect(api, "bedrock" if name == "bedrock" else None)
    found = {one.name: one for one in wait_for(model.examine())}
    assert (refused in found["fields"].told) or name == "bedrock"
    assert found["fields"].ok is (None if refused and name != "bedrock" else True)
    assert found["answers"].ok
    assert where in found["thoughts"].told
    assert off in found["thoughts"].told
    assert spec in found["spec"].told
    assert "granularity: turn" in found["spec"].told
    assert model.fields.omit == frozenset()  # told, and not done


@pytest.mark.parametrize("api", ["deepseek", "openrouter", "mistral", "openai"], indirect=True)
def test_earlier_thoughts_go_where_they_are_taken(
    api: Hosted, connect: Connect, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["api"]
    history = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello.", "reasoning": "A greeting."},
        {"role": "user", "content": QUESTION},
    ]
    assert TargetOnly(target=connect(api, name), settings=TURN).run(history).text == ANSWER
    own = {"deepseek": {"reasoning_content": "A greeting."}, "openrouter": {"reasoning": "A greeting."}}
    assert api.requests[-1]["messages"][1] == {"role": "assistant", "content": "Hello."} | own.get(name, {})
    kept = connect(api, name, ",omit=reasoning_content")
    assert TargetOnly(target=kept, settings=TURN).run(history).text == ANSWER
    assert api.requests[-1]["messages"][1] == {"role": "assistant", "content": "Hello."}


def test_a_window_that_is_known_or_told_is_never_exceeded(connect: Connect) -> None:
    with hosting("together", window=4096) as api:
        long = "word " * 500
        for options in ({"context": 4096}, {}):
            result = TargetOnly(target=connect(api, "together", **options), settings=TURN).run(long)
            assert (result.text, result.finish_reason) == (ANSWER, "stop")
            assert api.requests[-1]["max_tokens"] < 4096


@pytest.mark.parametrize("api", ["mistral"], indirect=True)
def test_what_an_answer_repeats_of_its_beginning_is_left_out(api: Hosted, connect: Connect) -> None:
    model = connect(api, "mistral")
    begun = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Well: "}]
    (step,) = wait_for(model.generate(Path(as_prompt(begun)), StepRequest((0,), 100, None))).steps
    assert step.text == ANSWER
    assert api.requests[-1]["messages"][-1] == {"role": "assistant", "content": "Well: ", "prefix": True}


@pytest.mark.parametrize("api", ["fireworks"], indirect=True)
def test_no_chat_continues_a_turn_that_was_cut(api: Hosted, connect: Connect) -> None:
    model = connect(api, "fireworks")
    path = Path(as_prompt(QUESTION)).extend(Step("<think>\nHm.\n</think>\n\n", "delimiter", size=2))
    with pytest.raises(ConfigurationError, match="its chats always open a new turn"):
        wait_for(model.generate(path, StepRequest((0,), 100, None)))
    assert api.requests == []


@pytest.mark.parametrize(
    ("url", "model", "profile"),
    [
        ("https://api.openai.com/v1", "gpt-5-nano", "openai_reasoning"),
        ("https://api.openai.com/v1", "o4-mini", "openai_reasoning"),
        ("https://api.openai.com/v1", "gpt-5-chat-latest", "openai"),
        ("https://api.openai.com/v1", "ft:o4-mini-2025-04-16:us:my-chat:Bx1", "openai_reasoning"),
        ("https://api.openai.com/v1", "ft:gpt-4.1-2025-04-14:us::Bx2", "openai"),
        ("https://api.openai.com/v1", "gpt-4.1", "openai"),
        ("https://eu.api.openai.com/v1", "gpt-5", "openai_reasoning"),
        ("https://us.api.openai.com/v1", "gpt-4.1", "openai"),
        ("https://mine.openai.azure.com/openai/v1", "gpt-5", "openai_reasoning"),
        ("https://mine.openai.azure.com/openai/v1", "my-deployment", "azure"),
        ("https://api.deepseek.com/v1", "deepseek-chat", "deepseek"),
        ("https://api.deepseek.com/beta", "deepseek-chat", "deepseek_beta"),
        ("https://bedrock-runtime.us-west-2.amazonaws.com/openai/v1", "openai.gpt-oss-20b-1:0", "bedrock"),
        ("https://router.huggingface.co/v1", "openai/gpt-oss-120b", "huggingface"),
        ("https://openrouter.ai/api/v1", "openai/gpt-5", "openrouter"),
        ("https://eu.openrouter.ai/api/v1", "openai/gpt-5", "openrouter"),
        ("https://api.groq.com/openai/v1", "qwen/qwen3-32b", "groq"),
        ("https://api.fireworks.ai/inference/v1", "accounts/fireworks/models/qwen3-8b", "fireworks"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "gemini-3.5-flash", "google"),
        ("https://api.openai.com.evil.example/v1", "gpt-5", None),
        ("https://my-api.openai.com/v1", "gpt-5", None),
        ("https://example.com/v1", "gpt-5", None),
    ],
)
def test_an_api_is_known_by_its_host(url: str, model: str, profile: str | None) -> None:
    found = hosted_at(url, model)
    assert (None if found is None else found.name) == profile


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"body": {"messages": []}}, r"body\.messages cannot be set: they are the prompt"),
        ({"body": {"max_tokens": 3}}, r"body\.max_tokens cannot be set: max_step_tokens and limits"),
        ({"body": {"x": {1, 2}}}, "body has a value that is not JSON"),
        ({"body": [1]}, "body takes fields by name"),
        ({"body": {"temperature": 1}, "omit": "temperature"}, "give only one"),
        ({"omit": "temprature"}, "omit='temprature': unknown field 'temprature', did you mean 'temperature'"),
        ({"omit": "stop"}, "omit=stop is not possible: the delimiter decides it"),
        ({"template": {"a": 1}, "mode": "completions"}, "template.NAME=… needs a tokenizer"),
    ],
)
def test_wrong_fields_are_refused_before_anything_is_sent(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        load("openai:m@http://127.0.0.1:9/v1", **options)


@pytest.mark.parametrize("api", ["openrouter"], indirect=True)
def test_fields_of_a_spec_reach_the_server_whole(api: Hosted, connect: Connect) -> None:
    spec = ',body.provider={"order":["a,b","c:d"]},body.reasoning.effort=low'
    model = connect(api, "openrouter", spec)
    assert TargetOnly(target=model, settings=TURN).run(QUESTION).text == ANSWER
    assert api.requests[-1]["provider"] == {"order": ["a,b", "c:d"]}
    assert api.requests[-1]["reasoning"] == {"effort": "low"}
    assert "order" not in repr(model)
    secret = connect(api, "openrouter", ",body.api_key=sk-123456789")
    assert not any("sk-123456789" in one.told for one in wait_for(secret.examine()))
    refused = connect(api, "openrouter", ",template.enable_thinking=false")
    with pytest.raises(ConfigurationError, match=r"body\.reasoning\.enabled=false"):
        TargetOnly(target=refused, settings=TURN).run(QUESTION)


@pytest.mark.parametrize("api", ["openai_reasoning"], indirect=True)
def test_steps_and_completions_are_refused_with_what_to_do(api: Hosted, connect: Connect) -> None:
    with pytest.raises(ConfigurationError, match="granularity='turn'"):
        TargetOnly(target=connect(api, "openai_reasoning")).run(QUESTION)
    with pytest.raises(ConfigurationError, match=r"supports only chats .* remove mode=completions"):
        TargetOnly(target=connect(api, "openai_reasoning", ",mode=completions"), settings=TURN).run(QUESTION)
    assert api.requests == []
