"""LangChain models as drafter and target."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self, TypeVar

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.prompt_values import PromptValue, StringPromptValue
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig
from langchain_core.runnables.config import ensure_config, var_child_runnable_config

from rsd_core import (
    ConfigurationError,
    Drafter,
    Generation,
    Message,
    MissingDependency,
    Model,
    Path,
    Price,
    Prompt,
    RunError,
    Step,
    StepRequest,
    Target,
    Usage,
)
from rsd_core.blocking import background_loop, in_thread
from rsd_core.lazy import identity
from rsd_integrations.langchain.messages import as_text, originals
from rsd_integrations.langchain.prefixes import (
    Reply,
    StopMode,
    find_mode,
    first_step,
    takes_body,
    whole,
    with_beginning,
)

T = TypeVar("T")
SENDS = ("temperature", "top_p", "max_tokens", "seed")
"""What of a step's request may be sent along with each call."""


class LangChainRole(Model):
    """What LangChain models have in common, whatever their role.

    Args:
        model: A chat model or LLM; bindings and fallbacks of one as well.
        trace_inner: Let callbacks and traces of the surrounding run see the calls of this model. Event streams then
            show its tokens as well, rejected ones included: tell them by the tag `rsd:…`. LangGraph's message streams
            stay clean.
        name: Shown to people; by default the model's own.
        price: What its tokens cost, for the ledger.
        flops_per_token: Two per weight, where known, for the ledger.
    """

    role = "model"
    """Tags the calls in traces, as `rsd:…`."""

    def __init__(
        self,
        model: Runnable[Any, Any],
        *,
        trace_inner: bool = False,
        name: str | None = None,
        price: Price | None = None,
        flops_per_token: float | None = None,
    ) -> None:
        if not isinstance(model, Runnable):
            raise ConfigurationError(
                f"{model!r} is no LangChain model. Pass a chat model or LLM, such as ChatOpenAI()."
            )
        self.model = model
        self.trace_inner = trace_inner
        self.name = name or _name(model)
        self.price = price
        self.flops_per_token = flops_per_token

    @property
    def fingerprint(self) -> str:
        """Tells models and their settings apart, as LangChain's own cache does."""
        return _fingerprint(self.model)

    def using(self, **changes: Any) -> Self:
        """A copy with other values of its attributes, such as `trace_inner` or `options`."""
        other = copy.copy(self)
        vars(other).update(changes)
        return other

    async def call(self, model: Runnable[Any, Any], value: Any, **options: Any) -> tuple[BaseMessage | str, Usage]:
        """Ask a model, without callbacks of the surrounding run unless `trace_inner`."""
        started = time.perf_counter()
        config = self._config()
        made = await self._run(
            model, partial(model.invoke, value, config, **options), partial(model.ainvoke, value, config, **options)
        )
        return made, told_usage(made, value, time.perf_counter() - started)

    async def _run(self, model: Runnable[Any, Any], blocking: Callable[[], T], native: Callable[[], Awaitable[T]]) -> T:
        """Call one of the two faces of a model."""
        context = contextvars.copy_context() if self.trace_inner else _quiet()
        if _blocking(model):
            return await in_thread(blocking, context)

        async def call() -> T:
            return await native()

        return await asyncio.create_task(call(), context=context)

    def _config(self) -> RunnableConfig:
        # Callbacks of the surrounding run are inherited unless others are named. `nostream` is LangGraph's word.
        if self.trace_inner:
            return RunnableConfig(tags=["nostream", f"rsd:{self.role}"])
        return RunnableConfig(callbacks=[])


class LangChainGenerator(LangChainRole, Drafter, Target):
    """A LangChain model that writes turns, or steps where it can continue an answer that was begun.

    In turn granularity the model gets the caller's messages as they are, and may call tools.

    Args:
        model: See `LangChainRole`.
        prefix: How the model is asked to continue, one of `PREFIX_MODES`; None for a model that cannot, which takes
            part in turns.
        stop: How the end of a step is told from the end of the answer, see `StopMode`. By default what goes with the
            prefix, and `cut` where the model's class cannot ask for it.
        render: Makes the text of a prompt for `completion`. Give the model's chat template here; by default the
            messages follow each other with a blank line between them.
        sends: What of each request is sent along, out of `SENDS`. Classes differ in what they take per call, so the
            rest is up to the model's own settings; OpenAI's take all four.
        options: Further keyword options of each call, such as `response_format`.
        tools: Tools to bind before each call; `options` then are those of `bind_tools`.
        **base: `trace_inner`, `name`, `price` and `flops_per_token`.

    Raises:
        ConfigurationError: The model's class cannot use the prefix mode or what is to be sent.
    """

    def __init__(
        self,
        model: Runnable[Any, Any],
        *,
        prefix: str | None = None,
        stop: StopMode | None = None,
        render: Callable[[Prompt], str] | None = None,
        sends: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        tools: Sequence[Any] = (),
        **base: Any,
    ) -> None:
        super().__init__(model, **base)
        if unknown := set(sends) - set(SENDS):
            raise ConfigurationError(f"sends={tuple(sends)!r}: {sorted(unknown)} is none of {', '.join(SENDS)}")
        self.mode = None if prefix is None else find_mode(prefix, model)
        default = None if self.mode is None else self.mode.stop
        self.stop = stop or ("cut" if default == "kept" and not takes_body(model) else default)
        self.render = render or _plain
        self.sends = tuple(sends)
        self.options = dict(options or {})
        self.tools = list(tools)

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        """Write the turn or step that follows the path, once per seed.

        Raises:
            ConfigurationError: A step is asked for, and the model was given no way to continue a prefix.
        """
        made = await asyncio.gather(*(self._write(path, request, seed) for seed in request.seeds))
        return Generation(tuple(step for step, _ in made), sum((usage for _, usage in made), Usage()))

    async def probe(self) -> None:
        """Have the model continue a short answer, to see that its server understands the prefix mode.

        Raises:
            RunError: It begins anew, or the end of its step cannot be told from the end of its answer.
        """
        question = "Write the words one, two, three and four, each followed by a blank line, and nothing else."
        begun = (
            Path((Message("user", question),)).extend(Step("one\n\n", "delimiter")).extend(Step("two\n\n", "delimiter"))
        )
        step, _ = await self._write(begun, StepRequest(seeds=(0,), max_tokens=50), 0)
        if not step.text.strip().lower().startswith("three"):
            raise RunError(
                f"{self.name} does not continue an answer with prefix={self.mode and self.mode.name!r}: after "
                f"{begun.text!r} it wrote {step.text!r}. Try another mode, or granularity='turn'."
            )
        if step.ending == "end":
            raise RunError(
                f"{self.name} ends steps like answers with stop={self.stop!r}: it wrote {step.text!r} and did not tell "
                "that it was stopped. Use stop='cut'."
            )

    async def _write(self, path: Path, request: StepRequest, seed: int) -> tuple[Step, Usage]:
        options = {**self.options, **self._sent(request, seed)}
        if request.delimiter is None:
            model = self.model
            if self.tools:
                model, options = self.model.bind_tools(self.tools, **options), {}  # type: ignore[attr-defined]
            made, usage = await self.call(model, self._asked(path.prompt), **options)
            native = made if isinstance(made, AIMessage) else None
            return whole(_reply(made, usage), native), usage
        if self.mode is None:
            raise ConfigurationError(
                f"{self.name} was given no way to continue an answer that was begun, which steps need. Name one, as in "
                f"{type(self).__name__}(model, prefix='continue_final_message'), or use granularity='turn'."
            )
        body = {**(getattr(self.model, "extra_body", None) or {}), **options.get("extra_body", {})}
        if path.text:
            body.update(self.mode.body or {})
        if self.stop != "cut":
            options["stop"] = [request.delimiter]
        if self.stop == "kept":
            body["include_stop_str_in_output"] = True
        if body:
            options["extra_body"] = body  # what a call gives replaces what the model has
        if self.mode.text:
            reply, usage = await self._complete(self.render(path.prompt) + path.text, options)
        else:
            messages = with_beginning(originals(path.prompt), path.text, self.mode)
            made, usage = await self.call(self.model, messages, **options)
            reply = _reply(made, usage)
        return first_step(reply, path.text, request.delimiter, self.mode, self.stop or "cut"), usage

    def _sent(self, request: StepRequest, seed: int) -> dict[str, Any]:
        known = {
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "max_tokens": request.max_tokens,
            "seed": seed % 2**31,  # servers take 32 bits
        }
        return {name: known[name] for name in self.sends}

    def _asked(self, prompt: Prompt) -> Any:
        return self.render(prompt) if isinstance(self.model, BaseLLM) else originals(prompt)

    async def _complete(self, text: str, options: dict[str, Any]) -> tuple[Reply, Usage]:
        """Let an LLM continue a text; unlike `invoke` this tells why it stopped."""
        assert isinstance(self.model, BaseLLM)
        started = time.perf_counter()
        config = ensure_config(self._config())
        options |= {"callbacks": config.get("callbacks") or None, "tags": config.get("tags")}
        value: list[PromptValue] = [StringPromptValue(text=text)]
        made = await self._run(
            self.model,
            partial(self.model.generate_prompt, value, **options),
            partial(self.model.agenerate_prompt, value, **options),
        )
        generation = made.generations[0][0]
        spent = (made.llm_output or {}).get("token_usage") or {}
        read = spent.get("prompt_tokens") or _estimate(text)
        wrote = spent.get("completion_tokens") or _estimate(generation.text)
        usage = Usage(read, read + wrote, 0, wrote, seconds=time.perf_counter() - started)
        return Reply(generation.text, _reason(generation.generation_info or {}), wrote), usage


class LangChainDrafter(LangChainGenerator):
    """A LangChain model as drafter."""

    role = "draft"


class LangChainTarget(LangChainGenerator):
    """A LangChain model as target."""

    role = "target"


def load(name: str, **options: Any) -> LangChainGenerator:
    """The model behind `langchain:PROVIDER:MODEL`, as `init_chat_model` makes it; options as `LangChainGenerator`."""
    try:
        from langchain.chat_models import init_chat_model
    except ModuleNotFoundError as error:
        raise MissingDependency("langchain", "agents", f"'langchain:{name}'") from error
    try:
        model = init_chat_model(name)
    except (ValueError, ImportError) as error:
        raise ConfigurationError(f"langchain:{name} makes no chat model: {error}") from error
    return LangChainGenerator(model, **options)


def _plain(prompt: Prompt) -> str:
    return "\n\n".join(message.content for message in prompt if message.role != "tools")


def _blocking(model: Runnable[Any, Any]) -> bool:
    """Whether to call the blocking face, in a thread of its own.

    On the background loop the caller blocks as well, and clients of the asynchronous face belong to the caller's own
    loops. Models without an asynchronous face would take theirs from a pool of few threads.
    """
    while isinstance(model, RunnableBinding):
        model = model.bound
    if asyncio.get_running_loop() is background_loop():
        return True
    if isinstance(model, BaseChatModel):
        base: type[Any] = BaseChatModel
    elif isinstance(model, BaseLLM):
        base = BaseLLM
    else:
        return False
    kind = type(model)
    return kind._agenerate is base._agenerate and kind._astream is base._astream


def _quiet() -> contextvars.Context:
    """The present context without callbacks: those of the surrounding run, and those that other variables hold.

    Naming none is not enough: a binding would merge them with the surrounding run's, and counters of usage are
    variables of their own.
    """
    context = contextvars.copy_context()
    for variable, value in list(context.items()):
        if isinstance(value, BaseCallbackHandler):
            context.run(variable.set, None)
    around = context.get(var_child_runnable_config)
    if around:
        context.run(var_child_runnable_config.set, {**around, "callbacks": None})
    return context


def _reply(made: BaseMessage | str, usage: Usage) -> Reply:
    if isinstance(made, BaseMessage):
        return Reply(as_text(made), _reason(made.response_metadata), usage.generated)
    return Reply(made, None, usage.generated)


def _reason(metadata: Mapping[str, Any]) -> str | None:
    for key in ("finish_reason", "stop_reason", "done_reason"):
        if metadata.get(key):
            return str(metadata[key])
    return None


def told_usage(made: BaseMessage | str, asked: Any, seconds: float) -> Usage:
    """Tokens as the provider tells them, else four characters each."""
    told = made.usage_metadata if isinstance(made, AIMessage) else None
    if told is not None:
        read, wrote = told.get("input_tokens") or 0, told.get("output_tokens") or 0
        reused = (told.get("input_token_details") or {}).get("cache_read") or 0
    else:
        read, wrote, reused = _estimate(asked), _estimate(made), 0
    return Usage(read, read - reused + wrote, reused, wrote, seconds=seconds)


def _estimate(value: Any) -> int:
    messages = value if isinstance(value, list) else [value]
    return count_tokens_approximately(messages, extra_tokens_per_message=0)


def _name(model: Runnable[Any, Any]) -> str:
    while isinstance(model, RunnableBinding):
        model = model.bound
    for attribute in ("model_name", "model", "model_id"):
        named = getattr(model, attribute, None)
        if isinstance(named, str):
            return named
    return type(model).__name__


def _fingerprint(model: Runnable[Any, Any]) -> str:
    if isinstance(model, RunnableBinding):
        bound = json.dumps(model.kwargs, sort_keys=True, default=str)
        return f"{_fingerprint(model.bound)}+{hashlib.sha256(bound.encode()).hexdigest()[:16]}"
    if isinstance(model, BaseChatModel | BaseLLM) and (model.is_lc_serializable() or len(model.asdict()) > 1):
        known = model._get_llm_string() if isinstance(model, BaseChatModel) else str(sorted(model.asdict().items()))
        return f"{_name(model)}#{hashlib.sha256(known.encode()).hexdigest()[:16]}"
    return identity(model)  # the class tells nothing that could identify a model
