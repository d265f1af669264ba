"""Policies by tool: which model must write a call, and which drafted calls are never kept."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from langchain.agents.middleware import ModelRequest, ModelResponse
from langchain.agents.structured_output import AutoStrategy, ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import PrivateAttr

from rsd_core import ConfigurationError, Step, WeightingPolicy, parse_policy
from rsd_core.data import nearest
from rsd_core.policies import AlwaysTarget, Decision, RequestView

Tool = BaseTool | dict[str, Any]


class ToolPolicies:
    """Which policy goes with which tool.

    Args:
        default: For answers without calls, and for tools not listed.
        by_tool: By name, or by `fnmatch` pattern, of which the first match applies; an exact name takes precedence.
    """

    def __init__(self, default: WeightingPolicy, by_tool: Mapping[str, Any]) -> None:
        if not isinstance(by_tool, Mapping) or not all(isinstance(name, str) for name in by_tool):
            raise ConfigurationError(f"tool_policies={by_tool!r} is not a mapping from tool names to policies")
        self.default = default
        self._by_tool = {name: _policy_of(name, policy) for name, policy in by_tool.items()}
        self._untold = {name for name in by_tool if not _is_pattern(name)}
        for policy in self.all:
            _check(policy)

    @property
    def all(self) -> tuple[WeightingPolicy, ...]:
        """Every policy once, the default first."""
        return tuple({id(policy): policy for policy in (self.default, *self._by_tool.values())}.values())

    def of(self, tool: str, known: Mapping[str, Tool | None]) -> WeightingPolicy:
        """The policy of a tool; one marked destructive, as by MCP servers, is reserved for the target by default."""
        if tool in self._by_tool:
            return self._by_tool[tool]
        for pattern, policy in self._by_tool.items():
            if _is_pattern(pattern) and fnmatch.fnmatchcase(tool, pattern):
                return policy
        told = getattr(known.get(tool), "metadata", None) or {}
        return _TARGET if told.get("destructiveHint") is True else self.default

    def for_turn(self, request: ModelRequest[Any]) -> TurnPolicy:
        """The policy of one model call."""
        known = tools_of(request)
        self._warn(known)
        chosen = _chosen(request.tool_choice)
        callable_ = [chosen] if chosen in known else list(known)
        possible = [self.of(name, known) for name in callable_]
        return TurnPolicy.over(self, known, possible if chosen in known else [self.default, *possible])

    def _warn(self, known: Mapping[str, object]) -> None:
        """Warn once about each name that matches no tool, since a misspelled one protects nothing."""
        for name in sorted(self._untold - known.keys()):
            self._untold.discard(name)
            near = nearest(name, known)
            warnings.warn(
                f"tool_policies names {name!r}, but this call has no such tool: {', '.join(known) or 'none'}"
                + (f"; did you mean {near!r}?" if near else ""),
                stacklevel=2,
            )
        self._untold -= known.keys()


def _policy_of(tool: str, policy: Any) -> WeightingPolicy:
    try:
        return parse_policy(policy)
    except ConfigurationError as error:
        raise ConfigurationError(f"tool_policies[{tool!r}]: {error}") from error


class TurnPolicy(WeightingPolicy):
    """The policies of one model call: a draft must satisfy those of all tools that it calls.

    It examines the drafted message, passed by the caller to `see` before any decision.
    """

    kind: Literal["turn"] = "turn"
    _policies: ToolPolicies = PrivateAttr()
    _known: Mapping[str, Tool | None] = PrivateAttr()
    _possible: Sequence[WeightingPolicy] = PrivateAttr()
    _applied: tuple[WeightingPolicy, ...] = PrivateAttr(default=())
    _targets: set[int] = PrivateAttr(default_factory=set)
    _refused: str | None = PrivateAttr(default=None)

    @classmethod
    def over(
        cls, policies: ToolPolicies, known: Mapping[str, Tool | None], possible: Sequence[WeightingPolicy]
    ) -> TurnPolicy:
        """The policy of a call with these tools and possibly applicable policies."""
        made = cls()
        made._policies, made._known, made._possible = policies, known, possible
        return made

    @property
    def applied(self) -> tuple[WeightingPolicy, ...]:
        """The policies that decide on the draft; before there is one, on a text."""
        return self._applied or (self._policies.default,)

    @property
    def definitions(self) -> list[dict[str, Any]]:
        """The tools that may be called, for judges of a draft."""
        return [
            tool if isinstance(tool, dict) else convert_to_openai_tool(tool) for tool in self._known.values() if tool
        ]

    @property
    def refused(self) -> str | None:
        """Why the draft cannot be kept, whatever its reward."""
        return self._refused

    def see(self, response: ModelResponse[Any], message: AIMessage) -> None:
        """Examine a draft."""
        names = [call["name"] for call in message.tool_calls]
        policies = [self._policies.of(name, self._known) for name in names] or [self._policies.default]
        self._applied = tuple({id(policy): policy for policy in policies}.values())
        own = [name for name, policy in zip(names or ["text"], policies, strict=True) if id(policy) in self._targets]
        self._refused = _fault(response, message, self._known) or (
            f"{' and '.join(dict.fromkeys(own))}: reserved for the target" if own else None
        )

    @property
    def needs_reward(self) -> bool:  # type: ignore[override]
        asked = self._applied or self._possible
        return self._refused is not None or any(policy.needs_reward for policy in asked)

    def weight(self, reward: float) -> float:
        return min(policy.weight(reward) for policy in self.applied)

    def route(self, request: RequestView) -> Literal["draft", "target"]:
        routes = {id(policy): policy.route(request) for policy in self._possible}
        self._targets = {key for key, route in routes.items() if route == "target"}
        return "target" if len(self._targets) == len(routes) else "draft"

    def decide(self, step: Step, reward: float, request: RequestView) -> Decision:
        decisions = {policy.decide(step, reward, request) for policy in self.applied if policy.needs_reward}
        strictest: tuple[Decision, ...] = ("target", "retry", "another", "verify")
        return next((one for one in strictest if one in decisions), "accept")

    def on_target_forced(self) -> None:
        for policy in self.applied:
            policy.on_target_forced()

    def learn(self, reward: float | None, request: RequestView) -> None:
        for policy in self.applied:
            policy.learn(reward, request)

    @property
    def learns(self) -> bool:
        return any(policy.learns for policy in self._possible)

    @property
    def scores_target(self) -> bool:
        return any(policy.scores_target for policy in self.applied)

    @property
    def verifies(self) -> bool:
        return any(policy.verifies for policy in self._possible)

    @property
    def needs_known(self) -> Literal["flops_per_token", "price"] | None:
        return next((known for policy in self._possible if (known := policy.needs_known)), None)


def as_words(policy: WeightingPolicy) -> str:
    """A policy for display, as in `binary_step:delta=0.7`."""
    own = policy.model_dump(mode="json", exclude={"kind", "then"})
    then = getattr(policy, "then", None)
    words = ",".join(f"{name}={value}" for name, value in own.items())
    return f"{policy.kind}{words and ':'}{words}" + (f"/{as_words(then)}" if then is not None else "")  # type: ignore[attr-defined]


def _check(policy: WeightingPolicy) -> None:
    """Raise for a policy that cannot decide on a chat model's message."""
    what = None
    if policy.needs_entropy:
        what = "needs the entropy of a first token, which chat models do not report"
    elif policy.limits is not None:
        what = "counts within one answer, but here an answer is one call; use run_budget or thread_budget"
    if what is not None:
        raise ConfigurationError(f"the policy {as_words(policy)} {what}. Others are binary_step:0.7 and always_target")


def tools_of(request: ModelRequest[Any]) -> dict[str, Tool | None]:
    """The tools of a call by name, including those for structured answers."""
    named: dict[str, Tool | None] = {_name(tool): tool for tool in request.tools}
    return named | dict.fromkeys(_schemas(request.response_format))


def _schemas(response_format: Any) -> list[str]:
    if response_format is None or isinstance(response_format, ProviderStrategy):
        return []
    if isinstance(response_format, AutoStrategy):
        response_format = response_format.schema
    strategy = response_format if isinstance(response_format, ToolStrategy) else ToolStrategy(response_format)
    return [spec.name for spec in strategy.schema_specs]


def _name(tool: Tool) -> str:
    """A tool's name; for provider-run tools, their type."""
    if isinstance(tool, BaseTool):
        return tool.name
    function = tool.get("function")
    named = [tool.get("name"), function.get("name") if isinstance(function, dict) else None, tool.get("title")]
    return str(next(filter(None, [*named, tool.get("type"), *tool]), ""))


def _chosen(choice: Any) -> str | None:
    """The single tool that must be called, in LangChain's, OpenAI's or Anthropic's format."""
    if isinstance(choice, Mapping):
        choice = choice.get("name") or (choice.get("function") or {}).get("name")
    return choice if isinstance(choice, str) else None


def _fault(response: ModelResponse[Any], message: AIMessage, known: Mapping[str, Tool | None]) -> str | None:
    """What is wrong with a drafted message, whatever its tools."""
    if message.invalid_tool_calls:
        broken = message.invalid_tool_calls[0]
        why = broken.get("error") or "its arguments are not a JSON object"
        return f"its call of {broken.get('name')} is broken: {why}"
    names = [call["name"] for call in message.tool_calls]
    if unknown := [name for name in names if name not in known]:
        return f"it calls {unknown[0]}, which is not one of: {', '.join(known) or '–'}"
    schemas = [name for name in names if known[name] is None]
    return f"its {schemas[0]} is invalid" if schemas and response.structured_response is None else None


def _is_pattern(name: str) -> bool:
    return any(char in name for char in "*?[")


_TARGET = AlwaysTarget()
