"""LangChain's standard tests of chat models, on the embedded models in step granularity."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from rsd_core import PromptError
from rsd_core.lazy import LoadedModels
from rsd_integrations.langchain import ChatRSD
from tests.langchain.test_standard_turn import Turns


class Steps:
    """`ChatRSD()` as it comes, its weights loaded once."""

    loaded: ClassVar = LoadedModels()
    reasons: ClassVar = Turns.reasons

    @property
    def chat_model_class(self) -> type[ChatRSD]:
        return ChatRSD

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"loaded": self.loaded}

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def supports_model_override(self) -> bool:
        return False


class TestUnitInSteps(Steps, ChatModelUnitTests):
    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        params = super().standard_chat_model_params
        del params["api_key"]
        return params


class TestIntegrationInSteps(Steps, ChatModelIntegrationTests):
    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"max_tokens": 48}  # the models know arithmetic, and ramble when one says hello
