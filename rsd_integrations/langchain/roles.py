"""LangChain models as drafter and target."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

from langchain_core.language_models import BaseLLM
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.prompt_values import StringPromptValue
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from rsd_core import (
    ConfigurationError,
    Drafter,
    Generation,
    Message,
    Path,
    Prompt,
    RunError,
    Step,
    StepRequest,
    Target,
    Thinking,
    Usage,
    add_usage,
    begun,
    parts_of,
)
from rsd_core.blocking import in_thread, wait_for
from rsd_core.concurrency import run_calls
from rsd_core.thoughts.reading import reader_at
from rsd_integrations.chat_fields import TEMPLATE, TOOL_FIELDS, TakesFields, refuse
from rsd_integrations.langchain.broken_calls import without_cut_call
from rsd_integrations.langchain.compositions import AnyRunnable, ends_in_model, models_in, rebuilt, unbound
from rsd_integrations.langchain.messages import as_text, originals, readable_by
from rsd_integrations.langchain.named_models import chat_model
from rsd_integrations.langchain.partner_classes import (
    SENDS,
    check_fields,
    check_stops,
    default_sends,
    described,
    lacking,
    with_fields,
)
from rsd_integrations.langchain.prefixes import (
    PrefixMode,
    Reply,
    StopMode,
    find_mode,
    first_step,
    takes_body,
    whole,
    with_beginning,
)
from rsd_integrations.langchain.thoughts import opened, thought_of
from rsd_integrations.langchain.tokens import estimate_tokens
from rsd_integrations.langchain.wrapped_model import LangChainRole, ModelReply, binds_tools
from rsd_integrations.loaded_models import identity
from rsd_integrations.tool_calls import tools_of

logger = logging.getLogger(__name__)
_QUESTION = "Write the words one, two, three and four, each followed by a blank line, and nothing else."
_BEGUN, _REST = ("One\n\n", "Two\n\n", "THR"), "ee"
"""The beginning given in a probe, and the required continuation."""


class LangChainGenerator(TakesFields, LangChainRole, Drafter, Target):
    """A LangChain model that writes turns, or steps if it can continue a begun answer.

    In turn granularity the model gets the caller's messages unchanged, and may call tools: those bound here, else those
    of the prompt. Request fields become call options.

    Args:
        model: See `LangChainRole`.
        prefix: How to ask the model to continue, one of `PREFIX_MODES`; None for a model that cannot, and only writes
            turns.
        stop: How the end of a step is distinguished from the end of the answer (see `StopMode`). By default the prefix
            mode's, and `cut` if the model's class does not support that.
        render: Renders a prompt as text for `completion`. Give the model's chat template here; by default messages are
            joined by blank lines.
        sends: Which request fields to send, out of `SENDS`, under the names in the model's class. The model's own
            settings decide the rest. By default the cap of a step, for classes known to accept one, and nothing in
            turns.
        options: Additional keyword options of each call, such as `response_format`.
        tools: Tools to bind before each call; `options` then go to `bind_tools`.
        **base: `trace_inner`, `name`, `price` and `flops_per_token`.

    Raises:
        ConfigurationError: The model's class, or the model, does not support the prefix mode or a field to send.
    """

    def __init__(
        self,
        model: Runnable[Any, Any],
        *,
        prefix: str | None = None,
        stop: StopMode | None = None,
        render: Callable[[Prompt], str] | None = None,
        sends: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
        tools: Sequence[Any] = (),
        **base: Any,
    ) -> None:
        super().__init__(model, **base)
        if unknown := set(sends or ()) - set(SENDS):
            raise ConfigurationError(f"sends={tuple(sends or ())!r}: {sorted(unknown)} not in {', '.join(SENDS)}")
        check_fields(model, sends or ())
        self.mode = None if prefix is None else find_mode(prefix, model)
        self.stop = stop or (self.mode and self.mode.stop)
        if stop is None and self.stop == "kept" and not takes_body(model):
            self.stop = "cut"
            logger.info(
                "%s cannot ask its server to keep stop strings: what it writes beyond a step is paid for", self.name
            )
        self.render = render or _template_of(unbound(model)) or _plain
        self.sends = None if sends is None else tuple(sends)
        self.sends_also: tuple[str, ...] = ()
        """Additional fields an adapter was told to send; omitted for models that do not accept them."""
        self.options = dict(options or {})
        self.tools = list(tools)
        self._told: list[str] = []
        self.asked: dict[str, Any] = {}
        """Fields of its requests; only for turns."""
        self.renders_tools = "turn" if binds_tools(model) else False

    def _with(self, fields: dict[str, Any]) -> Self:
        """Fields as call options; chat template arguments go into the request's body."""
        if TEMPLATE in fields and not takes_body(self.model):
            kind = type(unbound(self.model)).__name__
            raise ConfigurationError(
                f"{self.name} does not accept {TEMPLATE}: {kind} cannot add fields to a request's body; remove it, "
                "or set it when creating the model"
            )
        asked = {**self.asked, **fields}
        if TEMPLATE in fields:
            asked[TEMPLATE] = {**self.asked.get(TEMPLATE, {}), **fields[TEMPLATE]}
        return self.using(asked=asked)

    def _answers_differ_by(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"prefix": self.mode and self.mode.name, "stop": self.stop, "sends": self.sends}
        settings |= {"sends_also": self.sends_also}
        settings |= {"options": self.options, "tools": self.tools, "asked": self.asked}
        own = self.render is _plain or isinstance(self.render, partial)
        settings |= {"render": None if own else identity(self.render)}
        return {name: value for name, value in settings.items() if value}

    def tell_of_seed(self, names: Sequence[str]) -> None:
        """Warn, once per model, if the seed is not sent to it."""
        if "seed" not in names or self._told:
            return
        for inner in models_in(self.model):
            if why := lacking(inner, "seed"):
                self._told.append(why)
                warnings.warn(f"the seed is not sent to {described(inner)}: {why}", UserWarning, stacklevel=2)

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        """Write the turn or step that follows the path, once per seed.

        Raises:
            ConfigurationError: A step is requested, but no way to continue a prefix was set.
        """
        written = await run_calls(self._write(path, request, seed) for seed in request.seeds)
        return Generation(tuple(one.steps[0] for one in written), sum((one.usage for one in written), Usage()))

    def step_mode(self) -> PrefixMode:
        """How a begun answer is continued, as steps require.

        Raises:
            ConfigurationError: No way was set.
        """
        if self.mode is None:
            raise ConfigurationError(
                f"{self.name} has no way to continue a begun answer, which steps require. Set one, as in "
                f"{type(self).__name__}(model, prefix='continue_final_message'), or use granularity='turn'."
            )
        return self.mode

    def probe(self) -> None:
        """Have the model continue a short answer, to check that its server understands the prefix mode.

        The answer breaks off in the middle of a word, with letters that no model would begin with: only a real
        continuation completes the word. APIs that repeat the beginning also pass.

        Raises:
            RunError: It starts over, or the end of its step cannot be distinguished from the end of its answer.
        """
        wait_for(self._probe())

    async def aprobe(self) -> None:
        """The same from any event loop: it calls the model from a thread, as its clients may belong to another loop."""
        await in_thread(self.probe)

    async def _probe(self) -> None:
        path = Path((Message("user", _QUESTION),))
        for part in _BEGUN:
            path = path.extend(Step(part, "delimiter" if part.endswith("\n") else "length"))
        step = (await self._write(path, StepRequest(seeds=(0,), max_tokens=50), 0)).steps[0]
        if not step.text.lower().startswith(_REST):
            raise RunError(
                f"{self.name} does not continue an answer with prefix={self.mode and self.mode.name!r}: after "
                f"{path.text!r} it wrote {step.text!r}. Try another mode, or granularity='turn'."
            )
        if step.ending == "end":
            raise RunError(
                f"{self.name} ends steps like answers with stop={self.stop!r}: it wrote {step.text!r} and did not "
                "report that it was stopped. Use stop='cut'."
            )

    def thinking(self, prompt: Prompt) -> Thinking | None:
        """The thought opened by a rendered prompt; chats in steps have none, and for turns it is unknown beforehand."""
        if self.mode is None or begun(prompt) is not None:
            return None
        return opened(self.render(prompt)) if self.mode.text else Thinking(None)

    async def _write(self, path: Path, request: StepRequest, seed: int) -> Generation:
        model, options, fields = self.settled(), dict(self.options), self._fields(request, seed)
        if model is not self.model:  # configured for this run
            check_fields(model, self.sends or ())
            if self.mode is not None:
                find_mode(self.mode.name, model)
        if "stop" in options:
            fields["stop"] = options.pop("stop")
        if request.delimiter is None:
            return await self._write_turn(model, path, fields, options)
        refuse(self, self.asked, "that is for whole turns; set it when creating the model, or use granularity='turn'")
        mode = self.step_mode()
        body = {**(getattr(unbound(model), "extra_body", None) or {}), **options.get("extra_body", {})}
        if path.text:
            body.update(mode.body or {})
        stops = list(request.splitter.stops) if request.splitter and self.stop != "cut" else []
        if stops:
            check_stops(model, stops)
            fields["stop"] = stops
        if stops and self.stop == "kept":
            body["include_stop_str_in_output"] = True
        if body:
            options["extra_body"] = body  # a call's value replaces the model's
        if mode.text:
            reply = await self._complete(with_fields(model, fields, options), self._rendered(path) + path.text, fields)
        else:
            self._refuse_thought(path)
            messages = with_beginning(readable_by(model, originals(path.prompt)), path.text, mode)
            reply = as_reply(await self.call(with_fields(model, fields, options), messages))
            self._refuse_thought(path, reply)
        step = first_step(reply, path.text, request, mode, self.stop or "cut")
        return Generation((step,), reply.usage)

    def _rendered(self, path: Path) -> str:
        """The text of the prompt, without what its template opens if the path defines that."""
        rendered = self.render(path.prompt)
        own = None if path.opening is None else self.thinking(path.prompt)
        return rendered if own is None else rendered.removesuffix(own.opening)

    def _refuse_thought(self, path: Path, reply: Reply | None = None) -> None:
        """Raise for a thought in a chat in steps: templates drop or change it, so it cannot be continued."""
        written = path if reply is None else path.extend(Step(reply.text, "end"))
        if reader_at(written).in_thought or parts_of(written).thought or (reply is not None and reply.thought):
            error = ConfigurationError(
                f"{self.name} would have to continue a thought, which chats cannot: templates drop or change it. "
                "Switch thinking off when creating the model (reasoning_effort, or extra_body={'chat_template_kwargs': "
                "{'enable_thinking': False}}), or use granularity='turn', or an LLM with prefix='completion' and the "
                "model's chat template as render"
            )
            if reply is not None:
                add_usage(error, reply.usage)
            raise error

    async def _write_turn(
        self, model: AnyRunnable, path: Path, fields: dict[str, Any], options: dict[str, Any]
    ) -> Generation:
        """A whole message, from the caller's own messages."""
        tools = self.tools or (tools_of(path.prompt) if self.renders_tools else [])
        options |= self._asked(options, bool(tools))
        if tools:
            tools = [_as_function(tool) for tool in tools]
            model, options = rebuilt(model, lambda inner: inner.bind_tools(tools, **options)), {}  # type: ignore[attr-defined]
        model = with_fields(model, fields, options)
        if ends_in_model(model) and all(isinstance(inner, BaseLLM) for inner in models_in(model)):
            reply = await self._complete(model, self.render(path.prompt), fields)
            return Generation((whole(reply, path),), reply.usage)
        replied = await self.call(model, readable_by(model, originals(path.prompt)))
        reply, native = as_reply(replied), None
        if isinstance(replied.message, AIMessage):
            native = without_cut_call(replied.message)
            reply = replace(reply, text=as_text(native))
        return Generation((whole(reply, path, native),), replied.usage)

    def _asked(self, options: Mapping[str, Any], tools: bool) -> dict[str, Any]:
        """The request's fields as call options; tool choice is sent only with tools."""
        asked = {name: value for name, value in self.asked.items() if tools or name not in TOOL_FIELDS}
        if template := asked.pop(TEMPLATE, None):
            body = {**(getattr(unbound(self.model), "extra_body", None) or {}), **options.get("extra_body", {})}
            asked["extra_body"] = body | {TEMPLATE: {**body.get(TEMPLATE, {}), **template}}
        return asked

    def _fields(self, request: StepRequest, seed: int) -> dict[str, Any]:
        """The request fields to send, by our names."""
        known = {
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "max_tokens": request.max_tokens,
            "seed": seed % 2**31,  # servers accept 32 bits
        }
        by_default = () if request.delimiter is None else default_sends(self.model)
        own = by_default if self.sends is None else self.sends
        if request.sampling.top_k:  # providers have no common value for all tokens
            known["top_k"] = request.sampling.top_k
        return {name: known[name] for name in (*own, *self.sends_also) if name in known}

    async def _complete(self, model: AnyRunnable, text: str, fields: Mapping[str, Any]) -> Reply:
        """Have an LLM continue a text; unlike `invoke`, this reports why it stopped."""
        tokenizer = _tokenizer_of(unbound(model))

        def read(result: LLMResult, seconds: float) -> Reply:
            generation = result.generations[0][0]
            reason, counts = _reason(generation.generation_info or {}), _counts(result)
            size, wrote = counts.get("prompt_tokens") or 0, counts.get("completion_tokens") or 0
            if tokenizer is not None:  # its class reports only the text
                size, wrote = (
                    len(tokenizer(one, add_special_tokens=False)["input_ids"]) for one in (text, generation.text)
                )
                reason = "length" if wrote >= fields.get("max_tokens", math.inf) else "stop"
            size, wrote = size or estimate_tokens(text), wrote or estimate_tokens(generation.text)
            return Reply(generation.text, reason, Usage(size, size + wrote, 0, wrote, seconds=seconds))

        asked, config = rebuilt(model, _generating), self._config()
        value = StringPromptValue(text=text)
        return await self._run(model, partial(asked.invoke, value, config), partial(asked.ainvoke, value, config), read)


class LangChainDrafter(LangChainGenerator):
    """A LangChain model as drafter."""

    role = "draft"


class LangChainTarget(LangChainGenerator):
    """A LangChain model as target."""

    role = "target"


def load(name: str, **options: Any) -> LangChainGenerator:
    """The model for `langchain:PROVIDER:MODEL`, created by `init_chat_model`; options as for `LangChainGenerator`."""
    return LangChainGenerator(chat_model(f"langchain:{name}"), **options)


def _generating(model: AnyRunnable) -> AnyRunnable:
    """An LLM with the output of `generate_prompt`, through any wrappers."""
    assert isinstance(model, BaseLLM)

    def generate(value: StringPromptValue, config: RunnableConfig, **options: Any) -> LLMResult:
        return model.generate_prompt([value], callbacks=config.get("callbacks"), tags=config.get("tags"), **options)

    async def agenerate(value: StringPromptValue, config: RunnableConfig, **options: Any) -> LLMResult:
        callbacks, tags = config.get("callbacks"), config.get("tags")
        return await model.agenerate_prompt([value], callbacks=callbacks, tags=tags, **options)

    return RunnableLambda(generate, agenerate, name=type(model).__name__)


def _as_function(tool: Any) -> Any:
    """A tool as a function, which a model's class converts to its own format; OpenAI's would be passed unchanged.

    (`ChatOpenAI.bind_tools` then forgets `strict`, which OpenAI's client requires of every tool used with a
    `response_format`; langchain-openai 1.7.4.)
    """
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    return function if isinstance(function, dict) and {"description", "parameters"} <= function.keys() else tool


def _counts(result: LLMResult) -> Mapping[str, Any]:
    """Token counts from the provider: OpenAI's names, else Ollama's."""
    info = result.generations[0][0].generation_info or {}
    ollama = {"prompt_tokens": info.get("prompt_eval_count"), "completion_tokens": info.get("eval_count")}
    return (result.llm_output or {}).get("token_usage") or ollama


def _tokenizer_of(model: AnyRunnable) -> Any:
    """The tokenizer of a transformers pipeline, such as `HuggingFacePipeline` holds."""
    return getattr(getattr(model, "pipeline", None), "tokenizer", None)


def _template_of(model: AnyRunnable) -> Callable[[Prompt], str] | None:
    """A renderer with an in-process model's chat template, if it has one."""
    tokenizer = _tokenizer_of(model)
    return partial(_templated, tokenizer) if getattr(tokenizer, "chat_template", None) else None


def _templated(tokenizer: Any, prompt: Prompt) -> str:
    messages = [{"role": message.role, "content": message.content} for message in prompt if message.role != "tools"]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _plain(prompt: Prompt) -> str:
    return "\n\n".join(message.content for message in prompt if message.role != "tools")


def as_reply(replied: ModelReply) -> Reply:
    """A model's answer, parsed into text, thought and finish reason."""
    message = replied.message
    if isinstance(message, BaseMessage):
        return Reply(as_text(message), _reason(message.response_metadata), replied.usage, thought_of(message))
    return Reply(message, None, replied.usage)


def _reason(metadata: Mapping[str, Any]) -> str | None:
    for key in ("finish_reason", "stop_reason", "done_reason", "stopReason"):  # the last is Bedrock's
        if metadata.get(key):
            return str(metadata[key])
    details = metadata.get("incomplete_details")  # OpenAI's Responses API
    return str(details.get("reason")) if isinstance(details, Mapping) else None
