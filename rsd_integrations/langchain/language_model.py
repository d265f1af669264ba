"""What the LLM and the chat model report about themselves to LangChain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from langchain_core.language_models.base import BaseLanguageModel, LangSmithParams
from pydantic import model_validator

from rsd_core import __version__
from rsd_core.errors import DISTRIBUTION
from rsd_integrations.langchain.fields import RSDFields
from rsd_integrations.langchain.tokens import estimate_tokens


class RSDLanguageModel(RSDFields, BaseLanguageModel[Any]):
    """Identity, token counts and LangSmith parameters."""

    _kind: ClassVar[Literal["llm", "chat"]]

    @model_validator(mode="after")
    def _set_rsd_version(self) -> Self:
        self._add_version(DISTRIBUTION, __version__)
        return self

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {"model_name": self.model_name, **self.identity()}

    def get_num_tokens(self, text: str) -> int:
        # LangChain's default is GPT-2's tokenizer, downloaded. The models here have their own.
        return super().get_num_tokens(text) if self.custom_get_token_ids else estimate_tokens(text)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        settings = self.resolved()
        return LangSmithParams(
            ls_provider="rsd",
            ls_model_name=kwargs.get("model", self.model_name),
            ls_model_type=self._kind,
            ls_temperature=kwargs.get("temperature", settings.temperature),
            ls_max_tokens=kwargs.get("max_tokens", settings.limits.max_tokens),
            ls_stop=stop or self.stop,
        )
