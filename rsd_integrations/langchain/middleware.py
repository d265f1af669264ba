"""RSD around the model call of a LangChain agent."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, get_args

from langchain.agents.middleware import AgentMiddleware, ExtendedModelResponse, ModelRequest, ModelResponse
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableBinding, RunnableConfig, RunnableLambda

from rsd_core import ConfigurationError, Price, Settings, Verifier, WeightingPolicy, parse_policy
from rsd_integrations.langchain.agent_budget import AgentBudget, Budgets, RSDState, as_budget
from rsd_integrations.langchain.agent_turn import ExitBehavior, Setup, Turn, as_draft, is_draft
from rsd_integrations.langchain.fields import as_verifier
from rsd_integrations.langchain.identities import model_name
from rsd_integrations.langchain.judges import FunctionVerifier, Scorer
from rsd_integrations.langchain.named_models import chat_model
from rsd_integrations.langchain.tool_policies import ToolPolicies, as_words
from rsd_integrations.langchain.wrapped_model import LangChainRole

_Policy = str | dict[str, Any] | WeightingPolicy
_Response = ExtendedModelResponse[Any] | ModelResponse[Any]


class RSDMiddleware(AgentMiddleware[RSDState]):
    """Reward-guided speculative decoding by turns, around the model calls of an agent.

    The draft model answers each call, and the agent's own model, the target, answers it again if the verifier's reward
    is too low. Tool calls, structured output and multimodal messages work as usual: both models are called as the agent
    would call them. A rejected draft reaches neither the agent's state nor LangGraph's message streams.

    A draft is judged before anything of it is executed. One that calls several tools must satisfy the policies of all
    of them. One that cannot be executed as is (an unknown tool, unreadable arguments, a cut call, a structured answer
    that does not fit) is never kept, and is not sent to the verifier. If a message of the target was cut, its calls are
    `invalid_tool_calls`.

    Order: the first middleware of a list is the outermost. Put `ModelRetryMiddleware` and `ModelFallbackMiddleware`
    before this one: a fallback then replaces the target, and the whole turn is retried. After it, they would retry each
    of the two calls, and a fallback would also replace the cheap draft. A failing draft is not an error: the target
    answers. A failing target raises its own exception. With two `RSDMiddleware`, the outer one's draft comes first, and
    the inner one's if that is rejected.

    Args:
        draft: The cheap chat model, or its name as in `init_chat_model`, such as `"openai:gpt-5-nano"`.
        verifier: A function of (messages, reply) to a reward in [0, 1], a LangChain model as judge, a `Verifier`, or
            a spec; required unless no policy uses rewards.
        policy: Weighting policy as object, data or text, for answers without calls and for tools not listed below.
        drafter: Alias of `draft`.
        tool_policies: Policies by the name of a tool, or by a pattern such as `"read_*"`: `"always_draft"` for harmless
            tools, `"always_target"` for those that no draft may call. A tool with `destructiveHint` in its metadata, as
            from MCP servers, is reserved for the target unless it is listed here.
        run_budget: Budget of one agent run, as `AgentBudget` or a dictionary; it spans interrupts.
        thread_budget: The same for all runs of a thread, if a checkpointer keeps the state.
        exit_behavior: What to do if a budget is exhausted and a call needs more. `end`: a message says so, and the
            agent ends. `error`: `BudgetExceededError`. `draft`: the draft replaces the target if it calls no tool;
            otherwise like `end`.
        prices: By model name, its `Price` or (prompt, generated) per million tokens; for `max_cost` and the records.
        on_verifier_error: What to do with the draft if the verifier fails: `target`, `accept` or `raise`.
        trace_inner: Whether traces and event streams see the calls of the draft, tagged `rsd:draft` and rejected ones
            included, and of a LangChain judge. The record of each call is always in traces, as the output of a run
            named like this middleware.
        name: Distinguishes several in one agent, in records and graphs; by default derived from the draft's name.

    Example:
        ```python
        from langchain.agents import create_agent
        from langchain_core.language_models import FakeListChatModel

        cheap, strong = FakeListChatModel(responses=["Hm."]), FakeListChatModel(responses=["Paris."])
        rsd = RSDMiddleware(draft=cheap, verifier=lambda messages, reply: len(reply.text) / 9)
        agent = create_agent(strong, tools=[], middleware=[rsd])
        state = agent.invoke({"messages": [("user", "The capital of France?")]})
        assert state["messages"][-1].text == "Paris."
        ```

    Raises:
        ConfigurationError: The draft is not a chat model, or the verifier, a policy, a budget or a price is invalid.
    """

    state_schema = RSDState

    def __init__(
        self,
        draft: str | BaseChatModel | RunnableBinding[Any, Any] | None = None,
        verifier: str | Verifier | BaseChatModel | Scorer | None = None,
        policy: _Policy = "binary_step:0.7",
        *,
        drafter: str | BaseChatModel | RunnableBinding[Any, Any] | None = None,
        tool_policies: Mapping[str, _Policy] | None = None,
        run_budget: AgentBudget | Mapping[str, Any] | None = None,
        thread_budget: AgentBudget | Mapping[str, Any] | None = None,
        exit_behavior: ExitBehavior = "end",
        prices: Mapping[str, Price | Sequence[float]] | None = None,
        on_verifier_error: str = "target",
        trace_inner: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if (draft is None) == (drafter is None):
            both = "are aliases, give only one" if draft is not None else "is missing: give the cheap chat model"
            raise ConfigurationError(f"draft= (or drafter=) {both}")
        if exit_behavior not in get_args(ExitBehavior):
            raise ConfigurationError(
                f"exit_behavior={exit_behavior!r} must be one of {', '.join(get_args(ExitBehavior))}"
            )
        model, options = _chat_model(drafter if draft is None else draft)
        judge = None if verifier is None else as_verifier(verifier)
        if isinstance(judge, LangChainRole) and trace_inner:
            judge = judge.using(trace_inner=True)
        self._setup = Setup(
            name=name or re.sub(r"[|:]", "_", f"RSDMiddleware[{model_name(model)}]"),
            draft=model,
            draft_settings=options,
            verifier=judge,
            policies=ToolPolicies(parse_policy(policy), tool_policies or {}),
            budgets=Budgets(as_budget(run_budget, "run_budget"), as_budget(thread_budget, "thread_budget")),
            exit_behavior=exit_behavior,
            prices={model: _price(model, price) for model, price in (prices or {}).items()},
            settings=Settings.model_validate(
                # Retrying a model is up to the middleware around this one.
                {"granularity": "turn", "target_retries": 0, "on_verifier_error": on_verifier_error}
            ),
            trace_inner=trace_inner,
        )
        if judge is None and (asking := [one for one in self._setup.policies.all if one.needs_reward]):
            raise ConfigurationError(f"verifier= is missing: {as_words(asking[0])} needs its rewards")
        self._need_price(model_name(model))
        if isinstance(judge, Verifier):
            self._need_price_of(judge)

    @property
    def name(self) -> str:
        """The middleware's name, unique within the agent."""
        return self._setup.name

    def before_agent(self, state: RSDState, runtime: object) -> dict[str, Any]:  # noqa: ARG002
        """Note the position at which this run's records begin."""
        return {"rsd_run": len(state.get("rsd") or [])}

    async def abefore_agent(self, state: RSDState, runtime: object) -> dict[str, Any]:
        """The same, asynchronously."""
        return self.before_agent(state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> _Response:
        """The agent's model call, drafted first."""
        if is_draft(request.model):
            return handler(request)
        self._need_prices(request)
        turn = Turn(self._setup, request, handler, blocking=True)
        self._run_of(turn).invoke({}, self._config)
        return turn.response

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> _Response:
        """The same, asynchronously."""
        if is_draft(request.model):
            return await handler(request)
        self._need_prices(request)
        turn = Turn(self._setup, request, handler, blocking=False)
        await self._run_of(turn).ainvoke({}, self._config)
        return turn.response

    def _run_of(self, turn: Turn) -> RunnableLambda[object, dict[str, Any]]:
        """The turn as a separate run in traces, with the record as output."""
        return RunnableLambda(turn.run, turn.arun)

    @property
    def _config(self) -> RunnableConfig:
        return RunnableConfig(run_name=self.name)

    def _need_prices(self, request: ModelRequest[Any]) -> None:
        """The price of the agent's model, and of a verifier given by its spec, which is loaded here."""
        self._need_price(model_name(request.model))
        if self._setup.budgets.need_prices and (judge := self._setup.judge) is not None:
            self._need_price_of(judge)

    def _need_price_of(self, judge: Verifier) -> None:
        if judge.price is None and not isinstance(judge, FunctionVerifier):
            self._need_price(judge.name)

    def _need_price(self, model: str) -> None:
        if self._setup.budgets.need_prices and model not in self._setup.prices:
            raise ConfigurationError(
                f"max_cost needs the price of {model!r}; give prices={{{model!r}: (prompt, generated)}}, in money per "
                f"million tokens (known are {', '.join(self._setup.prices) or 'none'})"
            )


def _chat_model(draft: Any) -> tuple[BaseChatModel, dict[str, Any]]:
    """The draft as a chat model that the agent can call, and its call settings."""
    if isinstance(draft, str):
        draft = chat_model(draft)
    settings: dict[str, Any] = {}
    if isinstance(draft, RunnableBinding) and not ("tools" in draft.kwargs or draft.config or draft.config_factories):
        draft, settings = draft.bound, dict(draft.kwargs)
    if isinstance(draft, BaseChatModel):
        return as_draft(draft), settings
    raise ConfigurationError(
        f"draft= got a {type(draft).__name__}, not a chat model that an agent can bind its tools to. Pass one, such "
        "as init_chat_model('…') or its name; bound options are kept (model.bind(temperature=0)), tools and configs "
        "are not. Instead of with_retry and with_fallbacks use ModelRetryMiddleware and ModelFallbackMiddleware"
    )


def _price(model: str, price: Price | Sequence[float]) -> Price:
    try:
        made = price if isinstance(price, Price) else Price(*map(float, price))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"prices={{{model!r}: {price!r}}}: give a Price, or (prompt, generated) or (prompt, generated, cached) in "
            "money per million tokens"
        ) from error
    if min(made.prompt, made.generated, made.cached or 0) < 0:
        raise ConfigurationError(f"prices={{{model!r}: {price!r}}}: a price must be at least 0")
    return made
