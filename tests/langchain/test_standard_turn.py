"""LangChain's standard tests of chat models, over tool-calling models in turn granularity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from rsd_integrations.langchain import ChatRSD, result_of
from tests.langchain.inner_models import CarefulModel, Grounded, HurriedModel

MEDIA = {  # what the standard tests fetch, by the ends of the addresses
    ".png": b"\x89PNG\r\n\x1a\n" + bytes(20),
    ".pdf": b"%PDF-1.4\n%%EOF\n",
    ".wav": b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(24),
}
NO_KEY = "models hold their own keys and read them from the environment themselves; ChatRSD has none"
NO_SERIALIZATION = (
    "langchain_core.load admits only classes listed in LangChain itself; ChatRSD pickles, and its models are named by "
    "spec strings where they are to be written down"
)
NO_OVERRIDE = "a decoder has two generating models, so one name cannot replace both; give `draft` and `target` instead"


class Turns:
    """`ChatRSD` over a hurried draft, a careful target and a rule that tells their replies apart."""

    draft: ClassVar = HurriedModel()
    target: ClassVar = CarefulModel()
    verifier: ClassVar = Grounded()
    reasons: ClassVar = {
        "init_from_env_params not specified.": NO_KEY,
        "Model is not serializable.": NO_SERIALIZATION,
        "Model override not supported.": NO_OVERRIDE,
        "VCR not set up.": "there is no HTTP traffic to record; tests/benchmarks measure speed",
    }
    """Why what the suite skips is skipped."""

    @property
    def chat_model_class(self) -> type[ChatRSD]:
        return ChatRSD

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"draft": self.draft, "target": self.target, "verifier": self.verifier}

    @property
    def has_tool_calling(self) -> bool:
        return True

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def has_structured_output(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True  # by a forced call, like every method of structured output

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_urls(self) -> bool:
        return True

    @property
    def supports_pdf_inputs(self) -> bool:
        return True

    @property
    def supports_audio_inputs(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_pdf_tool_message(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return False


class TestUnitInTurns(Turns, ChatModelUnitTests):
    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        params = super().standard_chat_model_params
        del params["api_key"]  # see NO_KEY
        return params


class TestIntegrationInTurns(Turns, ChatModelIntegrationTests):
    @property
    def supported_usage_metadata_details(self) -> Any:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = ChatRSD(**self.chat_model_params)
        if not stream:
            return model.invoke("Hello")
        first, *rest = model.stream("Hello")
        return sum(rest, start=first)

    @pytest.fixture(autouse=True)
    def no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def get(url: str, **_: Any) -> httpx.Response:
            return httpx.Response(200, content=next(data for end, data in MEDIA.items() if url.endswith(end)))

        monkeypatch.setattr(httpx, "get", get)
        monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "unused")

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def drafts_were_accepted_and_replaced(cls, request: pytest.FixtureRequest) -> Iterator[None]:
        yield
        tests = {name for name in dir(cls) if name.startswith("test_")}
        if tests <= {getattr(item, "originalname", "") for item in request.session.items}:  # not with -k
            rewards = cls.verifier.rewards
            assert set(rewards) == {0.0, 1.0}
            assert len(cls.draft.asked) == len(rewards)
            assert len(cls.target.asked) == rewards.count(0.0)
