"""LangChain's standard tests of chat models with `ChatOpenAI` before `rsd serve`: nothing of this project is in it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import httpx2
import openai
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.integration_tests.chat_models import unicode_customer

from rsd_core import BinaryStep, Decoder, Path, RewardGuidedDecoder, Step
from rsd_core.testing import ScriptedVerifier
from rsd_integrations.embedded.task import problems
from rsd_integrations.langchain.messages import as_text, originals
from tests.langchain.inner_models import VAGUE, CarefulModel, HurriedModel
from tests.langchain.rule_writers import RuleWriter, SeesMistakes
from tests.serve.running import running
from tests.thinkers import Shown, ShownTarget

NO_MEDIA = "the models that are served read text alone"
NO_FORM = "the embedded models were taught no JSON, which forced calls and forms are"


def named(url: str) -> dict[str, Any]:
    """What `ChatOpenAI` needs to know of a server."""
    return {"model": "rsd", "base_url": f"{url}/v1", "api_key": "none"}


@tool
def my_adder_tool(a: int, b: int) -> int:
    """Add two integers."""
    return a + b


class Served(ChatModelIntegrationTests):
    """`ChatOpenAI` with the URL of a server, as its documentation says for servers that are not OpenAI's."""

    url = ""
    reasons: ClassVar[dict[str, str]] = {
        "Model does not support PDF inputs.": NO_MEDIA,
        "Model does not support audio inputs.": NO_MEDIA,
        "Model does not support image message.": NO_MEDIA,
        "Model does not support image tool message.": NO_MEDIA,
        "Model does not support PDF tool message.": NO_MEDIA,
        "VCR not set up.": "no HTTP is recorded; speed is measured by tests/benchmarks",
    }
    """Why a test of the suite is skipped, by what the suite says itself. A skip without a reason here fails."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        # By default all instances share their connections, and here each test has its own event loop.
        limits = httpx2.Limits(max_keepalive_connections=0)
        own = {"http_async_client": openai.DefaultAsyncHttpxClient(limits=limits)}
        return {**named(self.url), "stream_usage": True, **own}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"max_tokens": 48}  # the embedded models know word problems, and ramble when one says hello

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "target"


class TestTheEmbeddedFamily(Served):
    reasons: ClassVar = Served.reasons | {
        "Test requires tool choice.": NO_FORM,
        "Test requires structured output.": NO_FORM,
        "Test requires json mode support.": NO_FORM,
        "Test requires tool calling.": "the embedded models were taught no tools, and their chat template shows none",
        "Test requires tool calling support.": "the embedded models were taught no tools",
        "Model does not explicitly support Anthropic inputs.": NO_MEDIA + ", and call no tools",
    }

    @pytest.fixture(autouse=True)
    def at(self, served: str) -> None:
        self.url = served

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_tool_choice(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False

    def test_the_texts_are_the_bare_decoders(self, bare: Decoder) -> None:
        question = next(iter(problems("test", 6))).question
        model = ChatOpenAI(**self.chat_model_params, seed=4, temperature=0.6)
        wanted = bare.with_settings(bare.settings.updated(temperature=0.6)).run(question, seed=4)
        assert model.invoke(question).text == wanted.text
        assert [str(chunk.text) for chunk in model.stream(question) if chunk.text] == [
            step.text for step in wanted.steps
        ]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of `ChatOpenAI`, about its own objects
@pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema")  # and that it calls a function for these
class TestModelsThatCallToolsAndFillForms(Served):
    """A drafter that errs and a target that does not, by rules: both call tools in their texts, and fill in schemas."""

    reasons: ClassVar = Served.reasons | {
        "Test requires json mode support.": "rules fill in a schema, and JSON mode has none",
        "Model does not explicitly support Anthropic inputs.": "its messages hold images, and " + NO_MEDIA,
    }

    @pytest.fixture(scope="class")
    @classmethod
    def by_rules(cls) -> Iterator[str]:
        decoder = RewardGuidedDecoder(
            drafter=RuleWriter(mistakes=True),
            verifier=SeesMistakes(),
            target=RuleWriter(),
            policy=BinaryStep(delta=0.5),
        )
        with running(decoders={"rsd": decoder, "target": decoder}) as server:
            yield server.url

    @pytest.fixture(autouse=True)
    def at(self, by_rules: str) -> None:
        self.url = by_rules

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def has_structured_output(self) -> bool:
        return True


class TestCallsInTheTextsOfModels:
    """A hurried drafter and a careful target, which write calls into their texts as models of Qwen's do."""

    @pytest.fixture(scope="class")
    @classmethod
    def tool_callers(cls) -> Iterator[tuple[str, ShownTarget]]:
        drafter, target = Shown(written(HurriedModel())), ShownTarget(written(CarefulModel()))
        decoder = RewardGuidedDecoder(
            drafter=drafter, verifier=ScriptedVerifier(grounded), target=target, policy=BinaryStep(delta=0.5)
        )
        with running(decoders={"rsd": decoder}) as server:
            yield server.url, target

    def test_a_call_with_wrong_arguments_is_replaced_before_it_is_seen(
        self, tool_callers: tuple[str, ShownTarget]
    ) -> None:
        url, careful = tool_callers
        before = len(careful.calls)
        asked = "Use my adder tool for 33 and 456."  # of a length at which the drafter errs
        (call,) = ChatOpenAI(**named(url)).bind_tools([my_adder_tool]).invoke(asked).tool_calls
        assert call["args"] == {"a": 33, "b": 456}
        assert len(careful.calls) == before + 1

    def test_a_call_that_nobody_forced_keeps_its_letters(self, tool_callers: tuple[str, ShownTarget]) -> None:
        asked = "Create a customer named '你好啊集团' (Hello Group)"
        (call,) = ChatOpenAI(**named(tool_callers[0])).bind_tools([unicode_customer]).invoke(asked).tool_calls
        assert (call["name"], call["args"]["customer_name"]) == ("unicode_customer", "你好啊集团")


def written(model: BaseChatModel) -> Callable[[Path, random.Random], str]:
    """The script of a model that is shown the tools in its prompt and writes its calls as text."""

    def play(path: Path, _: random.Random) -> str:
        shown = [json.loads(message.content) for message in path.prompt if message.role == "tools"]
        return as_text(model.invoke(originals(path.prompt), tools=shown[0] if shown else []))

    return play


def grounded(path: Path, step: Step) -> float:
    """Whether a step says something, with numbers from the conversation alone."""
    known = re.findall(r"\d+", " ".join(message.content for message in path.prompt))
    return float(step.text != VAGUE and set(re.findall(r"\d+", step.text)) <= set(known))
