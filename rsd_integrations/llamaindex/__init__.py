"""RSD in LlamaIndex."""

from rsd_core import MissingDependency

try:
    import llama_index.core  # noqa: F401
except ModuleNotFoundError as missing:
    raise MissingDependency("llama-index-core", "llamaindex", "rsd_integrations.llamaindex") from missing

from rsd_integrations.llamaindex.answers import RSDStepEvent, result_of
from rsd_integrations.llamaindex.bill import Bill, rsd_bill
from rsd_integrations.llamaindex.judges import FunctionVerifier, LlamaIndexJudge
from rsd_integrations.llamaindex.llm import RSDLLM
from rsd_integrations.llamaindex.roles import LlamaIndexDrafter, LlamaIndexTarget

__all__ = [
    "RSDLLM",
    "Bill",
    "FunctionVerifier",
    "LlamaIndexDrafter",
    "LlamaIndexJudge",
    "LlamaIndexTarget",
    "RSDStepEvent",
    "result_of",
    "rsd_bill",
]
