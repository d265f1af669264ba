"""LangChain's standard tests of chat models, over tool-calling models in turn granularity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import httpx
import pytest
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from rsd_integrations.langchain import ChatRSD
from tests.langchain.inner_models import CarefulModel, Grounded, HurriedModel
from tests.langchain.standard import Declared, WithoutKey

MEDIA = {  # what the suite fetches, by the ends of the addresses
    ".png": b"\x89PNG\r\n\x1a\n" + bytes(20),
    ".pdf": b"%PDF-1.4\n%%EOF\n",
    ".wav": b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(24),
}


class Turns(Declared):
    """`ChatRSD` over a hurried draft, a careful target, and a rule that tells their replies apart."""

    draft: ClassVar = HurriedModel()
    target: ClassVar = CarefulModel()
    verifier: ClassVar = Grounded()

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"draft": self.draft, "target": self.target, "verifier": self.verifier}


class TestUnitInTurns(WithoutKey, Turns, ChatModelUnitTests): ...


class TestIntegrationInTurns(Turns, ChatModelIntegrationTests):
    @property
    def supported_usage_metadata_details(self) -> Any:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = ChatRSD(**self.chat_model_params)
        if not stream:
            return model.invoke("Hello")
        first, *rest = model.stream("Hello")
        return first + rest

    @pytest.fixture(autouse=True)
    def no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def get(url: str, **_: Any) -> httpx.Response:
            return httpx.Response(200, content=next(data for end, data in MEDIA.items() if url.endswith(end)))

        monkeypatch.setattr(httpx, "get", get)
        monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "unused")

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def drafts_were_accepted_and_replaced(
        cls, request: pytest.FixtureRequest, record_testsuite_property: Callable[[str, object], None]
    ) -> Iterator[None]:
        """Over the whole suite, where it is run as a whole."""
        yield
        suite = {name for name in dir(cls) if name.startswith("test_")}
        if suite <= {getattr(item, "originalname", "") for item in request.session.items}:
            rewards = cls.verifier.rewards
            assert set(rewards) == {0.0, 1.0}
            assert len(cls.draft.asked) == len(rewards)
            assert len(cls.target.asked) == rewards.count(0.0)
            record_testsuite_property(f"{cls.__name__}: accepted", rewards.count(1.0))
            record_testsuite_property(f"{cls.__name__}: replaced", rewards.count(0.0))
