"""RSD in LangChain: as an LLM, a chat model, a component of chains, a middleware of agents, over any provider."""

from typing import TYPE_CHECKING, Any

from rsd_integrations.langchain.bill import RSDBillCallbackHandler, bill_of, get_rsd_bill_callback
from rsd_integrations.langchain.chat import ChatRSD
from rsd_integrations.langchain.judges import FunctionVerifier, LangChainJudge
from rsd_integrations.langchain.llm import RSDLLM
from rsd_integrations.langchain.prefixes import PREFIX_MODES, PrefixMode
from rsd_integrations.langchain.roles import LangChainDrafter, LangChainTarget
from rsd_integrations.langchain.runnable import RSDRunnable
from rsd_integrations.langchain.trace import result_of

if TYPE_CHECKING:
    from rsd_integrations.langchain.middleware import RSDMiddleware

__all__ = [
    "PREFIX_MODES",
    "RSDLLM",
    "ChatRSD",
    "FunctionVerifier",
    "LangChainDrafter",
    "LangChainJudge",
    "LangChainTarget",
    "PrefixMode",
    "RSDBillCallbackHandler",
    "RSDMiddleware",
    "RSDRunnable",
    "bill_of",
    "get_rsd_bill_callback",
    "result_of",
]


def __getattr__(name: str) -> Any:
    """`RSDMiddleware` needs the package `langchain`, everything else `langchain-core` alone."""
    if name != "RSDMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from rsd_integrations.langchain.middleware import RSDMiddleware
    except ModuleNotFoundError as error:
        from rsd_core import MissingDependency

        raise MissingDependency("langchain", "agents", "RSDMiddleware") from error
    return RSDMiddleware
