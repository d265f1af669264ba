"""RSD in LangChain: as an LLM, a chat model, a component of chains, and a middleware for agents, over any provider."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rsd_core import MissingDependency

try:
    import langchain_core  # noqa: F401
except ModuleNotFoundError as missing:
    raise MissingDependency("langchain-core", "langchain", "rsd_integrations.langchain") from missing

from rsd_integrations.langchain.bill import RSDBillCallbackHandler, bill_of, get_rsd_bill_callback
from rsd_integrations.langchain.chat import ChatRSD
from rsd_integrations.langchain.judges import FunctionVerifier, LangChainJudge
from rsd_integrations.langchain.llm import RSDLLM
from rsd_integrations.langchain.prefixes import PREFIX_MODES, PrefixMode
from rsd_integrations.langchain.roles import LangChainDrafter, LangChainTarget
from rsd_integrations.langchain.runnable import RSDRunnable
from rsd_integrations.langchain.trace import result_of

if TYPE_CHECKING:
    from rsd_integrations.langchain.agent_budget import AgentBudget, BudgetExceededError
    from rsd_integrations.langchain.middleware import RSDMiddleware

__all__ = [
    "PREFIX_MODES",
    "RSDLLM",
    "AgentBudget",
    "BudgetExceededError",
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


_OF_AGENTS = {"RSDMiddleware": "middleware", "AgentBudget": "agent_budget", "BudgetExceededError": "agent_budget"}


def __getattr__(name: str) -> Any:
    """The agent classes need the package `langchain`, everything else only `langchain-core`."""
    if name not in _OF_AGENTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_OF_AGENTS[name]}")
    except ModuleNotFoundError as error:
        raise MissingDependency("langchain", "agents", name) from error
    return getattr(module, name)
