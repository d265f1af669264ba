"""The abilities of `ChatRSD` for LangChain's standard tests, as its own profile declares them."""

from __future__ import annotations

from typing import Any, ClassVar

from rsd_integrations.langchain import ChatRSD


class Declared:
    """Properties that both suites share. What the profile denies is skipped, everything else has to pass."""

    reasons: ClassVar[dict[str, str]] = {
        "init_from_env_params not specified.": (
            "ChatRSD has no key of its own: its models read theirs from the environment themselves"
        ),
        "Model is not serializable.": (
            "langchain_core.load admits only classes that LangChain lists itself; ChatRSD pickles instead"
        ),
        "Model override not supported.": (
            "two models write, so that one name cannot replace both; `draft` and `target` name them"
        ),
        "VCR not set up.": "no HTTP is recorded; speed is measured by tests/benchmarks",
    }
    """Why a test of the suite is skipped, by what the suite says itself. A skip without a reason here fails."""

    @property
    def chat_model_class(self) -> type[ChatRSD]:
        return ChatRSD

    @property
    def chat_model_params(self) -> dict[str, Any]:
        raise NotImplementedError

    def _can(self, ability: str) -> bool:
        return bool((ChatRSD(**self.chat_model_params).profile or {}).get(ability))

    @property
    def has_tool_calling(self) -> bool:
        return self._can("tool_calling")

    @property
    def has_tool_choice(self) -> bool:
        return self._can("tool_choice")

    @property
    def supports_json_mode(self) -> bool:
        return self._can("structured_output") or self._can("tool_choice")

    @property
    def supports_image_inputs(self) -> bool:
        return self._can("image_inputs")

    @property
    def supports_image_urls(self) -> bool:
        return self._can("image_url_inputs")

    @property
    def supports_pdf_inputs(self) -> bool:
        return self._can("pdf_inputs")

    @property
    def supports_audio_inputs(self) -> bool:
        return self._can("audio_inputs")

    @property
    def supports_video_inputs(self) -> bool:
        return self._can("video_inputs")

    @property
    def supports_image_tool_message(self) -> bool:
        return self._can("image_tool_message")

    @property
    def supports_pdf_tool_message(self) -> bool:
        return self._can("pdf_tool_message")

    @property
    def supports_anthropic_inputs(self) -> bool:
        return self._can("image_inputs") and self._can("tool_calling")  # inner models get messages as they are

    @property
    def supports_model_override(self) -> bool:
        return False


class WithoutKey:
    """For the unit suite, whose parameters name a key."""

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        given: dict[str, Any] = super().standard_chat_model_params  # type: ignore[misc]
        return {name: value for name, value in given.items() if name != "api_key"}
