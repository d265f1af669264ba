"""RSD in LlamaIndex."""

from rsd_integrations.llamaindex.answers import RSDStepEvent, result_of
from rsd_integrations.llamaindex.llm import RSDLLM

__all__ = ["RSDLLM", "RSDStepEvent", "result_of"]
