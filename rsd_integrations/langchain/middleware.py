"""RSD around the model call of a LangChain agent."""

from __future__ import annotations

import operator
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NotRequired, cast

from langchain.agents.middleware import AgentMiddleware, AgentState, ExtendedModelResponse, ModelRequest, ModelResponse
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.types import Command

from rsd_core import (
    ConfigurationError,
    Drafter,
    Generation,
    Path,
    Prompt,
    Result,
    RewardGuidedDecoder,
    RunError,
    Settings,
    Step,
    StepRequest,
    Target,
    TargetError,
    Usage,
    Verifier,
    WeightingPolicy,
    parse_policy,
)
from rsd_core.model import add_usage
from rsd_integrations.langchain.fields import as_verifier
from rsd_integrations.langchain.identities import model_name
from rsd_integrations.langchain.judges import Scorer
from rsd_integrations.langchain.messages import as_prompt, as_text
from rsd_integrations.langchain.silent_calls import Signal, call_async, call_in_thread
from rsd_integrations.langchain.thoughts import readable_by, thought_of
from rsd_integrations.langchain.tokens import usage_of_reply
from rsd_integrations.langchain.trace import step_data, usage
from rsd_integrations.loaded_models import LoadedModels
from rsd_integrations.turns import as_response

_Response = ModelResponse[Any]
_Handler = Callable[[ModelRequest[Any]], _Response | Awaitable[_Response]]


class RSDState(AgentState[Any]):
    """The agent's state with a record of each model call."""

    rsd: NotRequired[Annotated[list[dict[str, Any]], operator.add]]
    """For each call: `author` (`draft` or `target`), `reward`, `accepted`, `tokens` of the answer, `usage` of all
    models together, the verifier included, and `degradations`."""


class RSDMiddleware(AgentMiddleware[RSDState]):
    """Reward-guided speculative decoding by turns, around the model calls of an agent.

    The draft model answers each call, and the agent's own model, the target, answers it anew where the verifier's
    reward is too low. Tool calls, structured output and multimodal messages need nothing special: both models are
    called as the agent would call them. A rejected draft reaches neither the agent's state nor LangGraph's message
    streams.

    Order: the first middleware of a list is the outermost. Put `ModelRetryMiddleware` and `ModelFallbackMiddleware`
    before this one: a fallback then takes the target's place, and what is tried again is the whole turn. Behind it
    they would try each of the two calls again, and a fallback would also take the cheap draft's place.
    A failing draft is no error: the target answers. A failing target raises its own exception.

    Args:
        draft: The cheap chat model.
        verifier: A function of (messages, reply) to a reward in [0, 1], a LangChain model as judge, a `Verifier`, or
            a spec.
        policy: Weighting policy as object, data or text.
        on_verifier_error: What a failed verifier means for the draft: `target`, `accept` or `raise`.

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
        ConfigurationError: The draft is no chat model, or the verifier or policy are nothing that is known.
    """

    state_schema = RSDState

    def __init__(
        self,
        draft: BaseChatModel,
        verifier: str | Verifier | BaseChatModel | Scorer,
        policy: str | dict[str, Any] | WeightingPolicy = "binary_step:0.7",
        *,
        on_verifier_error: str = "target",
    ) -> None:
        super().__init__()
        if not isinstance(draft, BaseChatModel):
            raise ConfigurationError(f"draft={draft!r} is no chat model. Pass one, such as init_chat_model('…').")
        # LangGraph's message streams leave out what is tagged so.
        self._draft = draft.model_copy(update={"tags": [*(draft.tags or []), "nostream", "rsd:draft"]})
        self._verifier = as_verifier(verifier)
        self._policy = parse_policy(policy)
        self._settings = Settings.model_validate(
            # Trying a model again is the business of the middleware around this one.
            {"granularity": "turn", "target_retries": 0, "on_verifier_error": on_verifier_error}
        )
        self._loaded = LoadedModels()

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ExtendedModelResponse[Any]:
        """The agent's model call, drafted first."""
        turn = _Turn(self, request, handler, blocking=True)
        try:
            return turn.response(turn.decoder.run(turn.prompt))
        except (TargetError, Signal) as error:
            raise _origin(error) from error

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ExtendedModelResponse[Any]:
        """The same, asynchronously."""
        turn = _Turn(self, request, handler, blocking=False)
        try:
            return turn.response(await turn.decoder.arun(turn.prompt))
        except (TargetError, Signal) as error:
            raise _origin(error) from error


class _Turn:
    """One model call of an agent as a decoder with its prompt."""

    def __init__(self, rsd: RSDMiddleware, request: ModelRequest[Any], handler: _Handler, *, blocking: bool) -> None:
        self._drafter = _Caller(rsd._draft, request, handler, blocking=blocking)
        self._target = _Caller(request.model, request, handler, blocking=blocking)
        decoder = RewardGuidedDecoder(
            drafter=self._drafter,
            verifier=rsd._loaded.get(rsd._verifier),
            target=self._target,
            policy=rsd._policy,
            settings=rsd._settings,
        )
        self.decoder = rsd._loaded.watched(decoder)

    @property
    def prompt(self) -> Prompt:
        request = self._target.request
        system = [request.system_message] if request.system_message else []
        tools = [tool if isinstance(tool, dict) else convert_to_openai_tool(tool) for tool in request.tools]
        return as_prompt([*system, *request.messages], tools)

    def response(self, result: Result) -> ExtendedModelResponse[Any]:
        """The chosen model's response, and a record of the choice for the state."""
        response = self._target.response or self._drafter.response
        assert response is not None
        record = {key: value for key, value in _record(result).items() if key not in ("step", "text")}
        degradations = [item.message for item in result.degradations]
        return ExtendedModelResponse(
            response, Command(update={"rsd": [record | {"usage": usage(result), "degradations": degradations}]})
        )


class _Caller(Drafter, Target):
    """A model as the agent calls it."""

    def __init__(self, model: BaseChatModel, request: ModelRequest[Any], handler: _Handler, *, blocking: bool) -> None:
        self.name = model_name(model)
        self.request = request.override(
            model=model, messages=cast("list[AnyMessage]", readable_by(model, request.messages))
        )
        self.response: _Response | None = None
        self._handler = handler
        self._blocking = blocking

    async def generate(self, path: Path, request: StepRequest) -> Generation:  # noqa: ARG002 - the agent's holds all
        started = time.perf_counter()
        try:
            if self._blocking:
                return await call_in_thread(
                    lambda: self._read(cast("_Response", self._handler(self.request)), path, started),
                    self.name,
                    traced=True,
                )
            answer = cast("Awaitable[_Response]", self._handler(self.request))
            return self._read(await call_async(answer, self.name, traced=True), path, started)
        except Exception as error:
            reply = getattr(error, "ai_message", None)  # of a reply that could not be parsed, and was paid for
            if isinstance(reply, AIMessage):
                add_usage(error, self._usage(reply, started))
            raise

    def _read(self, response: _Response, path: Path, started: float) -> Generation:
        self.response = response
        reply = next((message for message in response.result if isinstance(message, AIMessage)), None)
        usage = self._usage(reply or "", started)
        if reply is None:
            raise RunError(f"{self.name} gave no message", usage=usage)
        text = as_response(as_text(reply), thought_of(reply), path)
        return Generation((Step(text, "end", size=usage.generated, native=reply),), usage)

    def _usage(self, reply: AIMessage | str, started: float) -> Usage:
        return usage_of_reply(reply, self.request.messages, time.perf_counter() - started)


def _origin(error: BaseException) -> BaseException:
    """What was raised in the first place, for the middleware around this one to recognise."""
    return error.signal if isinstance(error, Signal) else error.__cause__ or error


def _record(result: Result) -> dict[str, Any]:
    if result.steps:
        return step_data(result.steps[-1], 0)
    return {"author": "target", "reward": None, "accepted": False, "tokens": 0}  # both wrote nothing
