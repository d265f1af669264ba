"""`RSDLLM` inside LlamaIndex: query engines, agents, structured prediction, and the embedded models."""

import hashlib
from typing import Any

import pytest
from llama_index.core import Document, PromptTemplate, Settings, VectorStoreIndex
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, ReActAgent
from llama_index.core.base.response.schema import StreamingResponse
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.query_engine import BaseQueryEngine
from pydantic import BaseModel

from rsd_core import TargetOnly
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.llamaindex import RSDLLM, result_of
from tests.llamaindex.worlds import FACES, ask, text


class Words(BaseEmbedding):
    """A text as the bag of its words, hashed: similar texts share words."""

    def _get_text_embedding(self, text: str) -> list[float]:
        vector = [0.0] * 256
        for word in text.lower().replace("?", "").replace(".", "").split():
            vector[hashlib.sha256(word.encode()).digest()[0]] += 1.0
        return vector

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def reader(path: Any, _: Any) -> str:
    """Reads the answer out of the context that the query engine found."""
    known = path.prompt[-1].content
    if path.depth == 0:
        return "The context tells the harvest.\n\n"
    return "7 tons." if "7 tons of pears" in known and "kites" not in known else "I do not know."


def engine(llm: RSDLLM, **options: Any) -> BaseQueryEngine:
    texts = ["The harvest of 2031 was 7 tons of pears.", "The club flew 12 kites.", "A boat crossed the lake."]
    index = VectorStoreIndex.from_documents([Document(text=line) for line in texts], embed_model=Words())
    return index.as_query_engine(llm=llm, similarity_top_k=1, **options)


def farm(**options: Any) -> RSDLLM:
    """The drafter knows nothing, the verifier notices, the target reads the context."""
    slip = ScriptedDrafter(lambda path, random: "It was 9 tons." if path.depth else reader(path, random))
    judge = ScriptedVerifier(lambda _path, step: 0.1 if "9 tons" in step.text else 0.9)
    return RSDLLM(draft=slip, target=ScriptedTarget(reader), verifier=judge, **options)


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "simple_summarize"])
async def test_a_query_engine_answers_from_its_documents(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = "The context tells the harvest.\n\n7 tons."
    query = "How large was the harvest of pears?"
    counter = TokenCountingHandler(tokenizer=str.split)
    monkeypatch.setattr(Settings, "_callback_manager", CallbackManager([counter]))
    queries = engine(farm(), response_mode=mode)
    assert str(queries.query(query)) == wanted
    assert str(await queries.aquery(query)) == wanted
    assert len(counter.llm_token_counts) == 2


async def test_a_query_engine_streams_by_step() -> None:
    query = "How large was the harvest of pears?"
    streamed = engine(farm(), streaming=True).query(query)
    assert isinstance(streamed, StreamingResponse)
    assert [piece for piece in streamed.response_gen if piece] == ["The context tells the harvest.\n\n", "7 tons."]
    later = await engine(farm(), streaming=True).aquery(query)
    pieces = [piece async for piece in later.async_response_gen()]  # type: ignore[union-attr]
    assert [piece for piece in pieces if piece] == ["The context tells the harvest.\n\n", "7 tons."]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


def thinker(path: Any, _: Any) -> str:
    """Adds, multiplies, answers, line by line; and like many models it continues and invents the tool's reply."""
    seen = [message.content for message in path.prompt if message.content.startswith("Observation")]
    turn = [
        'Thought: I have to add.\nAction: add\nAction Input: {"a": 3, "b": 4}\nObservation: {8}\nThought: Now',
        'Thought: Now the product.\nAction: multiply\nAction Input: {"a": 7, "b": 5}\nObservation: {36}\nThought: So',
        f"Thought: I can answer without using any more tools.\nAnswer: {(seen or ['?'])[-1].split()[-1]}",
    ][len(seen)]
    return str(turn.splitlines(keepends=True)[path.depth])


def guesser(path: Any, random: Any) -> str:
    """Has each first thought wrong."""
    return "Thought: I guess it is 17.\n" if path.depth == 0 else thinker(path, random)


def mathematician(**options: Any) -> RSDLLM:
    judge = ScriptedVerifier(lambda _path, step: 0.1 if "guess" in step.text else 0.9)
    models = {"draft": ScriptedDrafter(guesser), "target": ScriptedTarget(thinker), "verifier": judge}
    return RSDLLM(**models, settings={"delimiter": "\n"}, **options)


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_react_agent_uses_its_tools(streaming: bool) -> None:
    llm = mathematician(stop=["\nObservation"])
    run = ReActAgent(tools=[add, multiply], llm=llm, streaming=streaming).run("What is 3 + 4, times 5?")
    events = [event async for event in run.stream_events()]
    shown = "".join(event.delta for event in events if isinstance(event, AgentStream))
    output: Any = await run
    assert str(output) == "35"
    assert [str(call.tool_output.content) for call in output.tool_calls] == ["7", "35"]
    assert [step.author for step in result_of(output).steps] == ["target", "draft"]
    assert output.raw["usage"]["total_tokens"] > 0
    assert bool(shown) == streaming
    assert "Observ" not in shown
    assert "guess" not in "".join(map(str, events))  # in no text, and in no metadata that comes with it


async def test_an_agent_workflow_takes_it_for_a_model_that_reasons_in_text() -> None:
    llm = mathematician(stop=["\nObservation"])
    agents = AgentWorkflow.from_tools_or_functions([add, multiply], llm=llm)
    assert str(await agents.run("What is 3 + 4, times 5?")) == "35"


def test_structured_prediction_reads_the_answer() -> None:
    class Fruit(BaseModel):
        """A fruit."""

        name: str
        tons: int

    llm = RSDLLM(decoder=TargetOnly(target=ScriptedTarget(["Here it is:\n\n", '{"name": "pear", "tons": 7}'])))
    made = llm.structured_predict(Fruit, PromptTemplate("Which fruit grows at {place}?"), place="the farm")
    assert made == Fruit(name="pear", tons=7)


@pytest.mark.parametrize("face", FACES)
async def test_the_embedded_models(face: str) -> None:
    llm = RSDLLM(context_window=512)
    question = "Mia has 20 pens. Then she buys 12 more. How many pens does Mia have now?"
    response = (await ask(llm, face, question))[-1]
    assert result_of(response).answer == "32"
    assert text(response).endswith("\\boxed{32}.")
    assert llm.complete(question, stop=["The answer"]).text == text(response).partition("The answer")[0]
