"""LangChain's standard tests of chat models, on the embedded models in step granularity."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from langchain_core.tools import tool
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from rsd_integrations.langchain import ChatRSD
from rsd_integrations.loaded_models import LoadedModels
from tests.langchain.rule_writers import RuleWriter, SeesMistakes
from tests.langchain.standard import Declared, WithoutKey

NO_TOOLS = "the embedded models were taught no tools, and their chat template renders none"
NO_JOKES = "these models tell no jokes, and a text that is none has no end; others are asked, see StepsWithTools"
NO_MEDIA = "the embedded models read text alone"


def text_alone(no_tools: str, no_media: str) -> dict[str, str]:
    """Why tests are skipped over models of text, by the reasons that concern tools and media."""
    return Declared.reasons | {
        "Test requires tool calling.": no_tools,
        "Test requires tool calling support.": no_tools,
        "Test requires tool choice.": no_tools,
        "Test requires structured output.": NO_JOKES,
        "Test requires json mode support.": NO_JOKES,
        "Model does not support PDF inputs.": no_media,
        "Model does not support audio inputs.": no_media,
        "Model does not support image message.": no_media,
        "Model does not support image tool message.": no_media,
        "Model does not support PDF tool message.": no_media,
        "Model does not explicitly support Anthropic inputs.": no_media + ", and call no tools",
    }


class Steps(Declared):
    """`ChatRSD()` as it comes, its weights loaded once for all tests."""

    loaded: ClassVar = LoadedModels()
    reasons: ClassVar = text_alone(NO_TOOLS, NO_MEDIA)
    has_structured_output = supports_json_mode = False

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"loaded": self.loaded}


class TestUnitInSteps(WithoutKey, Steps, ChatModelUnitTests): ...


class TestIntegrationInSteps(Steps, ChatModelIntegrationTests):
    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"max_tokens": 48}  # the models know word problems, and ramble when one says hello


class StepsWithTools(Declared):
    """`ChatRSD` over models that write steps by rules, know tools and write JSON by a schema; drafts go wrong."""

    reasons: ClassVar = Declared.reasons | {
        reason: "these models read text alone" for reason in text_alone("", "") if reason.startswith("Model does not ")
    }

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"draft": RuleWriter(mistakes=True), "target": RuleWriter(), "verifier": SeesMistakes()}


class TestUnitInStepsWithTools(WithoutKey, StepsWithTools, ChatModelUnitTests): ...


class TestIntegrationInStepsWithTools(StepsWithTools, ChatModelIntegrationTests):
    def test_its_profile_says_so(self) -> None:
        profile = ChatRSD(**self.chat_model_params).profile or {}
        assert [profile[ability] for ability in ("tool_calling", "tool_choice", "structured_output")] == [True] * 3


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def test_what_is_skipped_would_be_refused() -> None:
    model = ChatRSD(loaded=Steps.loaded)
    with pytest.raises(ValueError, match="cannot choose tools to call: its chat template does not show them"):
        model.bind_tools([add]).invoke("What is 1 + 2?")
    for kind, mime in (("image", "image/png"), ("audio", "audio/wav"), ("file", "application/pdf")):
        with pytest.raises(ValueError, match=f"'{kind}'"):
            model.invoke([("user", [{"type": kind, "base64": "AAAA", "mime_type": mime}])])
