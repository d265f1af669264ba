"""RSD in LangChain."""

from rsd_integrations.langchain.llm import RSDLLM

__all__ = ["RSDLLM"]
