"""Every adapter and every role can be shared by callers from several event loops and threads."""

import threading
import time
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from rsd_core import Path, Step, as_prompt
from rsd_core.blocking import wait_for
from rsd_integrations.langchain import (
    RSDLLM,
    ChatRSD,
    FunctionVerifier,
    LangChainDrafter,
    LangChainJudge,
    RSDMiddleware,
    RSDRunnable,
)
from tests.langchain.fakes import always, good
from tests.two_loops import in_two_loops

SPECS: dict[str, Any] = {"draft": "scripted:draft", "target": "scripted:target", "verifier": "scripted:verifier"}
TEXT = "There are 3 rows of 4 seats: 3*4=12.\n\nTwo seats are taken: 12-2=10.\n\nThe answer is \\boxed{10}."


def text(answer: Any) -> str:
    return str(getattr(answer, "text", answer))


@pytest.mark.parametrize("kind", [ChatRSD, RSDLLM, RSDRunnable])
def test_an_adapter_answers_two_loops_and_a_thread_at_once(kind: Any) -> None:
    model = kind(**SPECS)
    blocking: list[str] = []
    thread = threading.Thread(target=lambda: blocking.extend(text(answer) for answer in model.batch(["a", "b"])))
    thread.start()
    assert [text(answer) for answer in in_two_loops(lambda: model.ainvoke("q"))] == [TEXT] * 8
    batches = in_two_loops(lambda: model.abatch(["q", "r"], {"max_concurrency": 1}))
    assert [[text(answer) for answer in batch] for batch in batches] == [[TEXT, TEXT]] * 8
    thread.join(20)
    assert blocking == [TEXT, TEXT]


@pytest.mark.parametrize("kind", [ChatRSD, RSDRunnable])
def test_models_of_langchain_in_the_roles_answer_two_loops_at_once(kind: Any) -> None:
    judge = always("Score: 0")
    model = kind(draft=always("BAD", delay=0.02), target=always("fine", delay=0.02), verifier=judge)
    assert [answer.text for answer in in_two_loops(lambda: model.ainvoke("q"))] == ["fine"] * 8
    assert len(judge.asked) == 8


@pytest.mark.parametrize("verifier", [good, LangChainJudge(always("Score: 1"))], ids=["function", "judge"])
def test_a_middleware_answers_two_loops_at_once(verifier: Any) -> None:
    agent: Any = create_agent(always("fine"), [], middleware=[RSDMiddleware(always("BAD"), verifier)])
    states = in_two_loops(lambda: agent.ainvoke({"messages": [HumanMessage("q")]}))
    assert [state["messages"][-1].text for state in states] == ["fine"] * 8
    assert {state["rsd"][0]["author"] for state in states} == {"target"}


def blocking(_: list[BaseMessage], reply: AIMessage) -> float:
    time.sleep(0.02)
    return 0.25


async def asynchronous(_: list[BaseMessage], reply: AIMessage) -> float:
    return 0.25


PATH = Path(as_prompt("q"))
STEPS = [Step("one", "end"), Step("two", "end")]


@pytest.mark.parametrize(
    "verifier",
    [FunctionVerifier(blocking), FunctionVerifier(asynchronous), LangChainJudge(always("Score: 0", delay=0.02))],
    ids=["blocking function", "asynchronous function", "judge"],
)
def test_a_verifier_scores_for_two_loops_and_the_background_loop_at_once(verifier: Any) -> None:
    expected = 0.0 if isinstance(verifier, LangChainJudge) else 0.25
    scores: list[Any] = []
    thread = threading.Thread(target=lambda: scores.append(wait_for(verifier.score(PATH, STEPS))))
    thread.start()
    scores += in_two_loops(lambda: verifier.score(PATH, STEPS))
    thread.join(20)
    assert [one.rewards for one in scores] == [(expected, expected)] * 9


def test_weights_named_by_spec_are_loaded_once_for_two_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []

    def load(spec: str) -> LangChainDrafter:
        loads.append(spec)
        time.sleep(0.1)
        return LangChainDrafter(always("fine"))

    monkeypatch.setattr("rsd_integrations.loaded_models.load", load)
    model = ChatRSD(draft="scripted:draft", target=always("t"), verifier=good)
    assert [answer.text for answer in in_two_loops(lambda: model.ainvoke("q"))] == ["fine"] * 8
    assert loads == ["scripted:draft"]
