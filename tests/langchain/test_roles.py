"""LangChain models as drafter, target and judge: prefixes, ends of steps, probes, over real requests."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import SecretStr

from rsd_core import (
    ConfigurationError,
    Limits,
    Path,
    Prompt,
    RewardGuidedDecoder,
    RunError,
    Settings,
    Step,
    StepRequest,
    TargetOnly,
    Usage,
    as_prompt,
    load,
)
from rsd_core.blocking import wait_for
from rsd_integrations.langchain import ChatRSD, LangChainDrafter, LangChainTarget, result_of
from rsd_integrations.langchain.prefixes import PREFIX_MODES, Reply, first_step
from rsd_integrations.langchain.roles import LangChainGenerator
from tests.langchain.fakes import Inner, always
from tests.langchain.server import Server, serving

CONTINUE = "continue_final_message"


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    with serving("draft") as cheap, serving("target") as strong:
        yield cheap, strong


def client(kind: Any, server: Server, **options: Any) -> Any:
    more = {"use_responses_api": False} if kind is ChatOpenAI else {}
    return kind(model="m", base_url=server.url, api_key=SecretStr("sk-secret"), temperature=0, **more, **options)


def template(server: Server) -> Any:
    def render(prompt: Prompt) -> str:
        messages = [{"role": message.role, "content": message.content} for message in prompt]
        return str(server.words.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    return render


@pytest.mark.parametrize("kind", [ChatOpenAI, OpenAI])
def test_rsd_over_langchain_models_equals_rsd_in_process(
    kind: Any, servers: tuple[Server, Server], family: RewardGuidedDecoder, questions: list[str]
) -> None:
    def role(made: type[LangChainGenerator], server: Server) -> LangChainGenerator:
        if kind is OpenAI:
            return made(client(OpenAI, server), prefix="completion", render=template(server), sends=["max_tokens"])
        return made(client(ChatOpenAI, server), prefix=CONTINUE, sends=["max_tokens"])

    draft, target = role(LangChainDrafter, servers[0]), role(LangChainTarget, servers[1])
    decoder = RewardGuidedDecoder(drafter=draft, verifier=family.verifier, target=target, policy=family.policy)
    for question in questions[:6]:
        wanted, made = family.run(question), decoder.run(question)
        assert made.text == wanted.text
        assert [step.author for step in made.steps] == [step.author for step in wanted.steps]
        assert made.ledger.drafter.generated > 0
    asked = servers[0].requests[-1]
    assert asked["stop"] == ["\n\n"]
    assert asked["include_stop_str_in_output"] is True
    assert asynchronously(decoder, questions[0]) == family.run(questions[0]).text


def asynchronously(decoder: RewardGuidedDecoder, question: str) -> str:
    return asyncio.run(decoder.arun(question)).text


def test_chat_rsd_takes_such_roles_step_by_step(servers: tuple[Server, Server], questions: list[str]) -> None:
    model = ChatRSD(
        draft=LangChainDrafter(client(ChatOpenAI, servers[0]), prefix=CONTINUE),
        target=LangChainTarget(client(ChatOpenAI, servers[1]), prefix=CONTINUE),
        verifier=lambda messages, reply: 0.9,
    )
    assert model.resolved().granularity == "step"
    message = model.invoke(questions[0])
    assert len(result_of(message).steps) > 1
    assert "sk-secret" not in f"{model!r} {message!r} {model._identifying_params}"


def test_a_cut_text_needs_no_help_of_the_server(servers: tuple[Server, Server], questions: list[str]) -> None:
    server = servers[1]
    settings = Settings(limits=Limits(max_steps=6))
    texts = [
        TargetOnly(target=LangChainTarget(client(ChatOpenAI, server), prefix=CONTINUE, stop=stop), settings=settings)
        .run(questions[1])
        .text
        for stop in ("kept", "cut")
    ]
    assert texts[0] == texts[1]
    assert "stop" not in server.requests[-1]


def step_of(role: LangChainGenerator, path: Path) -> Step:
    return wait_for(role.generate(path, StepRequest(seeds=(0,)))).steps[0]


def counting(steps: int, question: str = "Count.") -> Path:
    path = Path(as_prompt(question))
    for word in ("one", "two", "three")[:steps]:
        path = path.extend(Step(f"{word}\n\n", "delimiter"))
    return path


def obedient(messages: list[Any], options: dict[str, Any]) -> str:
    """Continues the words it was given, and stops where it is told to."""
    last = messages[-1]
    done = str(last.text).split() if isinstance(last, AIMessage) else []
    words = ["one", "two", "three", "four"][len(done) :]
    return "\n\n".join(words) if words else ""


def test_modes_put_the_beginning_where_each_provider_wants_it() -> None:
    inner = Inner(answer=obedient)
    marked = LangChainDrafter(inner, prefix="prefix_flag")
    assert step_of(marked, counting(2)).text == "three\n\n"
    assert inner.asked[-1][0][-1].additional_kwargs == {"prefix": True}
    assert inner.asked[-1][0][-1].content == "one\n\ntwo\n\n"
    trailing = LangChainDrafter(inner, prefix="trailing_assistant")
    assert step_of(trailing, counting(2)) == Step("three\n\n", "delimiter", size=1)
    assert inner.asked[-1][0][-1].content == "one\n\ntwo"
    assert step_of(trailing, counting(3)).ending == "end"
    assert step_of(trailing, counting(0)).text == "one\n\n"
    assert inner.asked[-1][0][-1].type == "human"


def test_llms_complete_a_text() -> None:
    llm = FakeListLLM(responses=["three\n\nfour"])
    step = step_of(LangChainDrafter(llm, prefix="completion"), counting(2))
    assert (step.text, step.ending) == ("three\n\n", "delimiter")


@pytest.mark.parametrize("stop", ["kept", "cut", "told"])
def test_the_end_of_a_step_is_distinguished_from_the_end_of_the_answer(stop: Any) -> None:
    exact = PREFIX_MODES[CONTINUE]

    def read(text: str, reason: str | None, begun: str = "") -> tuple[str, str]:
        step = first_step(Reply(text, reason, Usage(generated=10)), begun, StepRequest((0,)), exact, stop)
        return step.text, step.ending

    assert read("a\n\n", "stop") == ("a\n\n", "delimiter")
    assert read("a\n\n\nb", "stop") == ("a\n\n\n", "delimiter")
    assert read("a", "stop") == ("a", "end")
    assert read("a", "length") == ("a", "length")
    assert read("a", "stop_sequence") == (("a\n\n", "delimiter") if stop == "told" else ("a", "end"))
    assert read("one\n\ntwo\n\n", "stop", begun="one\n\n") == ("two\n\n", "delimiter")
    with pytest.raises(RunError, match="gave up"):
        read("a", "abort")


def test_a_probe_finds_servers_that_do_not_understand() -> None:
    LangChainDrafter(Inner(answer=lambda _messages, _options: "EE\n\nFour"), prefix="trailing_assistant").probe()
    with pytest.raises(RunError, match="does not continue"):
        LangChainDrafter(Inner(answer=obedient), prefix="trailing_assistant").probe()  # in whole words
    with pytest.raises(RunError, match="stop='cut'"):
        LangChainDrafter(always("EE"), prefix="trailing_assistant", stop="told").probe()
    with pytest.raises(ConfigurationError, match="no way to continue"):
        LangChainDrafter(always("x")).probe()


def test_mistakes_are_refused_when_a_role_is_made() -> None:
    chat: Any = always("x")
    for options, told in (
        ({"prefix": "telepathy"}, "telepathy"),
        ({"prefix": "completion"}, "for LLMs"),
        ({"prefix": CONTINUE}, "no extra_body"),
        ({"sends": ["temprature"]}, "temprature"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            LangChainDrafter(chat, **options)
    with pytest.raises(ConfigurationError, match="for chat models"):
        LangChainDrafter(FakeListLLM(responses=["x"]), prefix=CONTINUE)
    with pytest.raises(ConfigurationError, match="not a LangChain model"):
        LangChainTarget("gpt")  # type: ignore[arg-type]


def test_a_spec_names_any_chat_model_of_langchain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    model = load("langchain:openai:gpt-5-nano")
    assert isinstance(model.model, ChatOpenAI)
    assert model.name == "gpt-5-nano"
    assert "sk-secret" not in repr(model)
    rsd = ChatRSD(draft="langchain:openai:a", target="langchain:openai:b", verifier="scripted:verifier")
    assert rsd.resolved().granularity == "turn"
    monkeypatch.setenv("MISTRAL_API_KEY", "sk-secret")
    specs = {"draft": "langchain,prefix=prefix_flag:mistralai:a", "target": "langchain,stop=cut:openai:b"}
    by_steps = ChatRSD(**specs, verifier="scripted:verifier")
    assert (by_steps.draft.mode.name, by_steps.draft.role) == ("prefix_flag", "draft")
    assert (by_steps.target.stop, by_steps.target.role) == ("cut", "target")
    with pytest.raises(ConfigurationError, match="langchain:nobody:x"):
        load("langchain:nobody:x")


def test_candidates_are_asked_for_side_by_side() -> None:
    inner = Inner(answer=obedient, delay=0.1)
    role = LangChainDrafter(inner, prefix="trailing_assistant")
    made = asyncio.run(role.generate(counting(1), StepRequest(seeds=(1, 2, 3, 4))))
    assert [step.text for step in made.steps] == ["two\n\n"] * 4
    assert made.usage.seconds >= 0.4  # four calls of a tenth of a second, which overlapped
    assert made.usage.generated == 4


def test_fields_of_a_models_own_body_are_sent_along(servers: tuple[Server, Server]) -> None:
    own = client(ChatOpenAI, servers[0], extra_body={"top_k": 5})
    step_of(LangChainDrafter(own, prefix=CONTINUE), counting(1))
    asked = servers[0].requests[-1]
    assert (asked["top_k"], asked["continue_final_message"]) == (5, True)
