"""RSDRunnable: the chain component, its batches, streams and events."""

import asyncio
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough

from rsd_core import Path, PromptError, TargetError, TargetOnly
from rsd_core.testing import ScriptedTarget
from rsd_integrations.langchain import RSDRunnable, result_of
from tests.langchain.fakes import always, good

SPECS = {"draft": "scripted:draft", "target": "scripted:target", "verifier": "scripted:verifier"}
TEXT = "There are 3 rows of 4 seats: 3*4=12.\n\nTwo seats are taken: 12-2=10.\n\nThe answer is \\boxed{10}."


def runnable(**options: Any) -> RSDRunnable:
    return RSDRunnable(**(SPECS | options))


class Listener(BaseCallbackHandler):
    """Hears of step events and of runs."""

    def __init__(self) -> None:
        self.steps: list[tuple[Any, Any]] = []
        self.runs: dict[Any, str] = {}
        self.ended: list[Any] = []
        self.failed: list[Any] = []

    def on_chain_start(self, serialized: Any, inputs: Any, *, run_id: Any, **told: Any) -> None:
        self.runs[run_id] = told.get("name") or ""

    def on_chain_end(self, outputs: Any, *, run_id: Any, **_: Any) -> None:
        self.ended.append(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: Any, **_: Any) -> None:
        self.failed.append(run_id)

    def on_custom_event(self, name: str, data: Any, *, run_id: Any, **_: Any) -> None:
        self.steps.append((run_id, data))


def test_a_prompt_in_the_full_result_out() -> None:
    message = runnable().invoke("q")
    assert isinstance(message, AIMessage)
    assert result_of(message).answer == "10"
    assert [step.author for step in result_of(message).steps] == ["draft", "target", "draft"]
    assert asyncio.run(runnable().ainvoke([HumanMessage("q")])).text == TEXT


def test_it_stands_between_a_prompt_and_a_parser() -> None:
    chain = ChatPromptTemplate.from_template("Solve: {x}") | runnable() | StrOutputParser()
    assert chain.invoke({"x": "a"}) == TEXT
    assert chain.batch([{"x": "a"}, {"x": "b"}]) == [TEXT, TEXT]
    assert [part for part in chain.stream({"x": "a"}) if part] == _steps(TEXT)
    assert asyncio.run(chain.ainvoke({"x": "a"})) == TEXT
    assert asyncio.run(chain.abatch([{"x": "a"}])) == [TEXT]
    from_text = PromptTemplate.from_template("{x}") | runnable()
    assert from_text.invoke({"x": "a"}).text == TEXT
    side_by_side = RunnablePassthrough.assign(rsd=ChatPromptTemplate.from_template("{x}") | runnable())
    assert side_by_side.invoke({"x": "a"})["rsd"].text == TEXT


def _steps(text: str) -> list[str]:
    parts = text.split("\n\n")
    return [part + "\n\n" for part in parts[:-1]] + parts[-1:]


def test_a_stream_adds_up_to_the_message() -> None:
    chunks = list(runnable().stream("q"))
    whole: Any = sum(chunks[1:], chunks[0])
    assert result_of(whole).steps == result_of(runnable().invoke("q")).steps


@pytest.mark.parametrize("asynchronous", [False, True])
def test_each_item_of_a_batch_tells_its_steps_to_its_own_run(asynchronous: bool) -> None:
    listeners = [Listener(), Listener()]
    configs: Any = [{"callbacks": [listener], "run_name": f"item {i}"} for i, listener in enumerate(listeners)]
    model = runnable()
    if asynchronous:
        asyncio.run(model.abatch(["a", "b"], configs))
    else:
        model.batch(["a", "b"], configs)
    for i, listener in enumerate(listeners):
        ((run, name),) = listener.runs.items()
        assert name == f"item {i}"
        *steps, (_, bill) = listener.steps
        assert [step["author"] for _, step in steps] == ["draft", "target", "draft"]
        assert [item["role"] for item in bill] == ["drafter", "verifier", "target"]
        assert {run_id for run_id, _ in listener.steps} == {run}
        assert listener.ended == [run]


def test_a_failed_item_takes_no_other_down_and_its_run_tells() -> None:
    def target(path: Path, _: object) -> str | Exception:
        return RuntimeError("gone") if "bad" in path.prompt[0].content else "fine"

    model = RSDRunnable(decoder=TargetOnly(target=ScriptedTarget(target)), max_retries=0)
    listener = Listener()
    made: list[Any] = model.batch(["good", "bad", "good"], {"callbacks": [listener]}, return_exceptions=True)
    assert [made[0].text, made[2].text] == ["fine", "fine"]
    assert isinstance(made[1], TargetError)
    assert (len(listener.ended), len(listener.failed)) == (2, 1)
    with pytest.raises(TargetError, match="gone"):
        model.batch(["good", "bad"])
    with pytest.raises(TargetError, match="gone"):
        model.invoke("bad")


def test_events_show_steps_chunks_and_parents() -> None:
    chain = RunnableLambda(lambda x: x) | runnable()

    async def events() -> list[Any]:
        return [event async for event in chain.astream_events("q", version="v2", config={"tags": ["mine"]})]

    told = asyncio.run(events())
    steps = [event for event in told if event["event"] == "on_custom_event"]
    assert steps.pop()["name"] == "rsd_bill"
    assert [event["data"]["author"] for event in steps] == ["draft", "target", "draft"]
    (start,) = [event for event in told if event["event"] == "on_chain_start" and event["name"] == "RSDRunnable"]
    assert {event["run_id"] for event in steps} == {start["run_id"]}
    assert "mine" in start["tags"]
    streamed = [event for event in told if event["event"] == "on_chain_stream" and event["run_id"] == start["run_id"]]
    assert "".join(str(event["data"]["chunk"].text) for event in streamed) == TEXT
    assert "12-2=9" not in str(told)


def test_it_is_configurable_and_takes_options_of_a_call() -> None:
    model = runnable().configurable_fields(policy=ConfigurableField(id="policy"))
    assert "12-2=9" in model.invoke("q", {"configurable": {"policy": "constant:1"}}).text
    assert "12-2=9" in runnable().invoke("q", policy="constant:1").text
    assert runnable().invoke("q", stop=["Two"]).text == TEXT[: TEXT.index("Two")]
    assert runnable().with_config(run_name="x").invoke("q").text == TEXT


def test_it_works_in_turns_too() -> None:
    model = RSDRunnable(draft=always("BAD"), target=always("fine"), verifier=good)
    assert model.invoke("q").text == "fine"
    assert asyncio.run(model.abatch(["q", "r"]))[1].text == "fine"


def test_an_empty_batch_is_empty() -> None:
    assert runnable().batch([]) == []


@pytest.mark.parametrize("wrong", [{"question": "q"}, None, HumanMessage("q")])
def test_an_invalid_prompt_is_refused(wrong: Any) -> None:
    with pytest.raises(PromptError, match="is not a prompt"):
        runnable().invoke(wrong)
