"""LangChain's standard tests of chat models, over models that think before they answer: in turns and in steps."""

from __future__ import annotations

import random
from typing import Any, ClassVar

from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from rsd_core import Path
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.langchain import ChatRSD, result_of
from tests.langchain import test_standard_turn
from tests.langchain.inner_models import CarefulThinker, Grounded, HurriedThinker
from tests.langchain.standard import WithoutKey
from tests.langchain.test_standard_step import Steps, text_alone


class ToldReasoning:
    """Usage metadata that tell the tokens of the thought."""

    chat_model_params: dict[str, Any]

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        model = ChatRSD(**self.chat_model_params)
        message = model.invoke("Hello")
        if stream:
            first, *rest = model.stream("Hello")
            message = first + rest
        assert result_of(message).thought
        return message


class TurnsThatThink(test_standard_turn.Turns):
    """`ChatRSD` over the models that answer by rules, which think here."""

    draft: ClassVar = HurriedThinker()
    target: ClassVar = CarefulThinker()
    verifier: ClassVar = Grounded()


class TestUnitInThinkingTurns(WithoutKey, TurnsThatThink, ChatModelUnitTests): ...


class TestIntegrationInThinkingTurns(ToldReasoning, TurnsThatThink, test_standard_turn.TestIntegrationInTurns):
    @property
    def supported_usage_metadata_details(self) -> Any:
        told = ["cache_read_input", "reasoning_output"]
        return {"invoke": told, "stream": told}


def _writes(mistake: str) -> Any:
    def play(path: Path, _: random.Random) -> str:
        asked = path.prompt[-1].content
        steps = (
            f"<think>\nThey wrote {len(asked)} characters{mistake}.\n\n",
            "I greet them.\n</think>\n\n",
            f"Hello{mistake}.\n\n",
            f"You wrote {len(asked)} characters.",
        )
        return steps[path.depth]

    return play


class StepsThatThink(Steps):
    """`ChatRSD` over scripted models, whose draft goes wrong in its thought and in its answer."""

    reasons: ClassVar = text_alone("the scripted models are shown no tools", "the scripted models read text alone")

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "draft": ScriptedDrafter(_writes(" or BAD")),
            "target": ScriptedTarget(_writes("")),
            "verifier": ScriptedVerifier(lambda _path, step: 0.1 if "BAD" in step.text else 0.9),
        }


class TestUnitInThinkingSteps(WithoutKey, StepsThatThink, ChatModelUnitTests): ...


class TestIntegrationInThinkingSteps(ToldReasoning, StepsThatThink, ChatModelIntegrationTests):
    @property
    def supported_usage_metadata_details(self) -> Any:
        return {"invoke": ["reasoning_output"], "stream": ["reasoning_output"]}
