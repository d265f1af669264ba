"""An agent's budget, per run and per thread, and its spending, recorded in the agent's state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware import AgentState
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.exceptions import ModelError
from pydantic import Field, ValidationError

from rsd_core import ConfigurationError, RunError
from rsd_core.data import Data, explain
from rsd_core.limits import Amount, Count


def merged(before: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge records of model calls without duplicates: parallel branches and subgraphs repeat what they received."""
    known = {record["id"] for record in before}
    return before + [record for record in new if record["id"] not in known]


class RSDState(AgentState[Any]):
    """The agent's state with a record of each model call."""

    rsd: NotRequired[Annotated[list[dict[str, Any]], merged]]
    """For each call: `author` (`draft`, `target`, or `limit` if a budget was exhausted), `reward`, `accepted`, `tools`
    that the judged message calls, `policy` that judged it, `refused` (why the draft could not be kept whatever its
    reward), `limit`, `tokens` of the answer, `usage` of all models together, the verifier included, their `cost`,
    `target_calls`, `degradations`, `middleware` and an `id`."""
    rsd_run: NotRequired[Annotated[int, PrivateStateAttr]]
    """How many records there were when the run began."""


class AgentBudget(Data):
    """Limits on the model calls of one run, or of a thread; None for no limit.

    Tokens and money are checked before each model call of the agent, which may overshoot them by one call.
    """

    max_target_calls: Annotated[int, Field(ge=0)] | None = None
    """Calls of the agent's own model. Accepted drafts do not need one."""
    max_tokens: Count | None = None
    """Tokens read and written by all models together."""
    max_cost: Amount | None = None
    """Money, in the currency of the prices."""


@dataclass(frozen=True, slots=True)
class Budgets:
    """The budgets of an agent."""

    run: AgentBudget
    thread: AgentBudget

    @property
    def need_prices(self) -> bool:
        """Whether money is limited."""
        return any(budget.max_cost is not None for budget in (self.run, self.thread))

    def spent(self, state: Mapping[str, Any], middleware: str, *names: str) -> str | None:
        """The first limit that is reached, in words; None if there is room.

        Args:
            state: The agent's.
            middleware: The middleware whose records count.
            names: Fields of `AgentBudget`.
        """
        records = state.get("rsd") or []
        scopes = (("run", self.run, records[state.get("rsd_run") or 0 :]), ("thread", self.thread, records))
        for scope, budget, within in scopes:
            own = [record for record in within if record["middleware"] == middleware]
            for name in names:
                most = getattr(budget, name)
                if most is not None and (used := _USED[name](own)) >= most:
                    return f"{name}={most:g} of this {scope} is reached: {used:g} used"
        return None


class BudgetExceededError(RunError, ModelError):
    """The budget of a run or thread is exhausted, and `exit_behavior` is `error`.

    Being a `ModelError`, it tells LangChain's middleware not to retry.

    Args:
        message: Which limit.
        record: The record of the call that hit it, which does not reach the agent's state.
    """

    is_retryable = False

    def __init__(self, message: str, record: dict[str, Any]) -> None:
        super().__init__(message)
        self.record = record

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.record)


def as_budget(value: AgentBudget | Mapping[str, Any] | None, name: str) -> AgentBudget:
    """A budget from data.

    Raises:
        ConfigurationError: A limit is unknown or out of range.
    """
    try:
        return AgentBudget.model_validate({} if value is None else value)
    except ValidationError as error:
        raise ConfigurationError(f"{name}: {explain(error)}") from error


_USED: dict[str, Any] = {
    "max_target_calls": lambda records: sum(record["target_calls"] for record in records),
    "max_tokens": lambda records: sum(record["usage"]["total_tokens"] for record in records),
    "max_cost": lambda records: _money(record["cost"] for record in records),
}


def _money(costs: Iterable[float | None]) -> float:
    return sum([cost or 0.0 for cost in costs])
