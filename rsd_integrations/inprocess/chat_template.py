"""Chat templates: the text of a prompt, the template's arguments, and what it reveals about a model's thoughts."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from jinja2 import Environment, TemplateError, meta

from rsd_core import ConfigurationError, Message, Prompt, PromptError, Thinking, beginning
from rsd_core.data import unknown
from rsd_core.paths import begun
from rsd_core.thoughts.markers import MARKERS, Markers
from rsd_integrations.tool_calls import tools_of, with_objects

Turn = dict[str, Any]
"""A message in the form that templates read."""
_QUESTION, _THOUGHT, _ANSWER, _RESPONSE = "⟦question⟧", "⟦thought⟧", "⟦answer⟧", "⟦response⟧"
"""Placeholders for texts while a template is tested."""
_GIVEN = {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"}
"""Names in a template that are not arguments for the user; those of special tokens are not either."""
_GENERATION_TAG = re.compile(r"{%[-+]?\s*(end)?generation\s*[-+]?%}")
"""Marks generated text, for training; jinja itself does not support it."""
_SWITCHES = ("enable_thinking", "thinking")
"""Arguments that request a thought if true."""
_TAIL = 1024
"""Characters at the end of a rendered prompt in which the template may open the response."""
_RENDERINGS = 64
"""Number of cached renderings: each is used when a request begins, and when its prompt is first read."""


def _blocks(thought: str, answer: str) -> Turn:
    shown = [{"type": "thinking", "thinking": thought}] if thought else []
    return {"content": [*shown, {"type": "text", "text": answer}]}


def _parts(thought: str, answer: str) -> Turn:
    shown = [{"type": "thoughts", "text": thought}] if thought else []
    return {"content": {"blocks": [*shown, {"type": "response", "text": answer}]}}


_FIELDS = ("reasoning_content", "reasoning", "thinking")
_FORMS: dict[str, Callable[[str, str], Turn]] = {"blocks": _blocks, "parts": _parts}
"""Forms of content that includes the thought, for templates without a field for it."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """A prompt rendered by the template."""

    head: str
    """The text up to the response."""
    space: str = ""
    """White space before the opening."""
    opening: str = ""
    """The beginning of the response written by the template, from a marker on."""

    @property
    def text(self) -> str:
        """The whole text."""
        return self.head + self.space + self.opening


class Tokenizer(Protocol):
    """The required interface of a tokenizer, a part of transformers'."""

    @property
    def chat_template(self) -> Any:
        """The template, or several by name; None if there is none."""

    @property
    def bos_token(self) -> Any:
        """The token that begins a text; None if there is none."""

    @property
    def eos_token_id(self) -> Any:
        """Id of the token that ends an answer; None if there is none."""

    @property
    def added_tokens_decoder(self) -> Any:
        """Tokens besides the merged ones by id, each with its `content` and whether it is `special`."""

    @property
    def all_special_ids(self) -> Any:
        """Ids of the tokens declared as special."""

    def __call__(self, text: Any, /, *, add_special_tokens: bool = True) -> Any:
        """`{"input_ids": [...]}` of a text, with or without `add_special_tokens`."""

    def get_vocab(self) -> dict[str, int]:
        """Ids by token."""

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """The tokens of ids."""

    def decode(self, token_ids: Any) -> Any:
        """The text of ids, including special tokens."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Render messages."""


class ChatTemplate:
    """The chat template of a tokenizer, with the user's arguments.

    Args:
        tokenizer: A tokenizer with a chat template.
        arguments: Arguments by name, such as `enable_thinking`.

    Raises:
        ConfigurationError: The template does not use an argument, or a switch is neither true nor false.
    """

    def __init__(self, tokenizer: Tokenizer, arguments: Mapping[str, Any] | None = None) -> None:
        self._tokenizer = tokenizer
        template = tokenizer.chat_template
        self.source = "\n".join(template.values()) if isinstance(template, dict) else str(template)
        """Its text; all of them for tokenizers with several templates."""
        if not isinstance(arguments or {}, Mapping):
            raise ConfigurationError(f"template takes arguments by name, such as enable_thinking (got {arguments!r})")
        self.arguments = dict(arguments or {})
        if self.arguments:
            names = sorted(_arguments_of(self.source))
            for name, value in self.arguments.items():
                if not names:
                    raise ConfigurationError(f"this model's chat template takes no arguments (got {name!r}): omit it")
                if name not in names:
                    raise ConfigurationError(unknown("template argument", name, names))
                if name in _SWITCHES and not isinstance(value, bool):  # in templates the text "false" is true
                    raise ConfigurationError(f"the template argument {name} takes true or false (got {value!r})")
        self._renderings: OrderedDict[int, tuple[Prompt, Rendering]] = OrderedDict()
        self._lock = threading.Lock()

    def thinking(self, prompt: Prompt) -> Thinking | None:
        """How the model thinks before it answers a prompt; None if the template does not show it."""
        markers = self.markers
        if markers is None:
            tokens = self._added_tokens
            return None if any(known.open in tokens for known in MARKERS.values()) else Thinking(None)
        opening = self.rendering(prompt).opening
        if begun(prompt) is None and opening:
            return Thinking(markers, opening)
        return Thinking(None if self._is_off(opening) else markers)

    def start(self, prompt: Prompt, thinking: Thinking | None = None) -> str:
        """The text that a model reads before the first step.

        Args:
            prompt: The prompt. A last message that begins the response is kept unchanged, since templates drop thoughts
                and trim white space.
            thinking: How all models of the request begin the response; None leaves that to the template.
        """
        rendering, message = self.rendering(prompt), begun(prompt)
        if message is not None:
            own = None if thinking is None else thinking.markers
            return self._begun(rendering, *self._turns(prompt[:-1]), beginning(message, own or self.markers))
        if thinking is None or (self.markers and thinking.opening == rendering.opening):
            return rendering.text
        if self.markers is None and thinking.markers is not None:  # given by the user: the template may open them
            rendering = replace(rendering, head=_opened(thinking.markers).sub("", rendering.head))
        return self._joined(rendering, thinking.opening)

    def after(self, prompt: Prompt, messages: Sequence[Message]) -> str:
        """The text that follows the response to a prompt: further messages, and the beginning of the next response.

        A last message by the assistant is that beginning.

        Raises:
            ConfigurationError: The template drops earlier turns of the assistant.
        """
        message = begun(tuple(messages))
        further = messages if message is None else messages[:-1]
        earlier = prompt if begun(prompt) is None else prompt[:-1]
        turns, tools = self._turns((*earlier, Message("assistant", _RESPONSE), *further))
        rendering = self._split(turns, tools)
        if message is None:
            text = rendering.text
        elif message.extra or self.markers is None or self._is_off(rendering.opening):
            text = self._begun(rendering, turns, tools, beginning(message, self.markers))
        elif rendering.opening:
            text = rendering.text + message.content
        else:  # a thinking model says it inside its thought, as in SpecReason (arXiv 2504.07891)
            text = self._joined(rendering, self.markers.begin(message.content))
        _, response, rest = text.rpartition(_RESPONSE)
        if not response:
            raise ConfigurationError("the chat template drops earlier assistant turns, so steps cannot be judged")
        return rest

    def rendering(self, prompt: Prompt) -> Rendering:
        """A prompt rendered by the template, without a last message that begins the response."""
        with self._lock:
            known = self._renderings.get(id(prompt))
            if known is not None:  # the prompt is kept with it, so its id is unique
                return known[1]
        rendering = self._split(*self._turns(prompt if begun(prompt) is None else prompt[:-1]))
        with self._lock:
            self._renderings[id(prompt)] = prompt, rendering
            if len(self._renderings) > _RENDERINGS:
                self._renderings.popitem(last=False)
        return rendering

    @cached_property
    def markers(self) -> Markers | None:
        """The markers of thoughts, with the white space that the template puts around them; None if it has none."""
        return self._known and replace(self._known, before=self._space)

    @cached_property
    def _known(self) -> Markers | None:
        """The markers, without the white space before them."""
        shown = self._shown
        if shown is not None:
            return shown[1]
        tokens = self._added_tokens
        known = [
            markers
            for markers in MARKERS.values()
            if markers.close in self.source
            and (markers.open in self.source or markers.open in tokens)
            and markers.answer in self.source
        ]
        if not known:
            return None
        known.sort(key=lambda markers: not markers.answer)  # the most specific first
        _, generation = self._tried_question
        markers = next((one for one in known if one.open in generation), known[0])
        opened = generation.rpartition(markers.open)[2]
        if (markers.open in generation and not opened) or f"{markers.open}{markers.close}{_ANSWER}" in self._answered:
            return replace(markers, lead="", closing=markers.close + markers.ending.partition(markers.close)[2].strip())
        return markers

    @cached_property
    def _tried_question(self) -> tuple[str, str]:
        """The text of a prompt, and the generation prompt at its end."""
        text = self._render([_USER], None, generate=True)
        return text, self._generation(text, [_USER], None)

    @cached_property
    def _answered(self) -> str:
        """The text of an answer without a thought."""
        return self._tried([_USER, {"role": "assistant", "content": _ANSWER}])

    @cached_property
    def _shown(self) -> tuple[str, Markers] | None:
        """The form of a turn with a thought, and the markers around the thought; None if the template shows none."""
        signs = {"reasoning", "thinking", *(known.close for known in MARKERS.values())}
        if not any(sign in self.source for sign in signs):
            return None
        for asked in (None, *({name: True} for name in self._switches)):
            for form in (*_FIELDS, *_FORMS):
                turns = [_USER, {"role": "assistant", **_told(form, _THOUGHT, _ANSWER)}]
                if (markers := _around(self._tried(turns, arguments=asked))) is not None:
                    return form, markers
        return None

    @cached_property
    def _switches(self) -> list[str]:
        """The template's arguments that request a thought."""
        names = _arguments_of(self.source)
        return [name for name in _SWITCHES if name in names]

    @cached_property
    def _must_be_asked(self) -> bool:
        """Whether the template opens no thought because an argument that requests thoughts is not true."""
        asked = [self._tried([_USER], arguments={name: True}) for name in self._switches]
        return bool(asked) and self._tried_question[0] not in asked

    @cached_property
    def _space(self) -> str:
        """The white space that the model itself writes before opening its thought."""
        markers = self._known
        assert markers is not None
        text, generation = self._tried_question
        bare = text[: len(text) - len(generation)]
        at = generation.find(markers.open)
        if at >= 0:  # the template writes it: is it part of every turn?
            head = generation[:at]
            space = head[len(head.rstrip()) :]
            turns = [_USER, {"role": "assistant", "content": _ANSWER}, _USER]
            return "" if self._tried(turns).startswith(bare + head) else space
        if self._shown is None:
            return ""
        shown = self._tried([_USER, {"role": "assistant", **_told(self._shown[0], _THOUGHT, _ANSWER)}])
        before, found, _ = shown.removeprefix(text).partition(markers.open)
        return before if found and before.isspace() and shown.startswith(text) else ""

    @cached_property
    def _added_tokens(self) -> frozenset[str]:
        return frozenset(token.content for token in self._tokenizer.added_tokens_decoder.values())

    def _is_off(self, opening: str) -> bool:
        """Whether the model answers without a thought after this opening."""
        if opening or self.markers is None:
            return Thinking(self.markers, opening).is_off or opening.startswith(self._closers)
        return self._must_be_asked

    @cached_property
    def _closers(self) -> tuple[str, ...]:
        """Beginnings of an opening without a thought."""
        markers = self.markers
        return () if markers is None else tuple(mark for mark in (markers.close, markers.answer) if mark)

    def _begun(self, rendering: Rendering, turns: list[Turn], tools: list[Any], text: str) -> str:
        """A rendered conversation followed by the beginning of a response.

        An answer without a thought is preceded by whatever the template puts there: an empty thought, a marker, a
        space.
        """
        if self._begins_thought(text) or text.startswith(self._closers):
            return self._joined(rendering, text)
        begin, markers = rendering.text if self._is_off(rendering.opening) else rendering.head, self.markers
        if not text:
            return begin
        whole = self._tried([*turns, {"role": "assistant", "content": _ANSWER}], tools)
        before, answer, _ = whole.rpartition(_ANSWER)
        between = before.removeprefix(begin)
        if answer and between != before:
            opened = markers is not None and markers.open in between and markers.close not in between
            return begin + ("" if opened else between) + text
        return begin + ("" if markers is None or begin.endswith(markers.answer) else markers.answer) + text

    def _begins_thought(self, text: str) -> bool:
        return self.markers is not None and text.lstrip().startswith(self.markers.open.lstrip())

    def _joined(self, rendering: Rendering, text: str) -> str:
        """The prompt with the beginning of a response in place of the template's opening."""
        if not self._begins_thought(text):
            return rendering.head + text
        assert self.markers is not None
        return rendering.head + self._space + text[text.index(self.markers.open) :]

    def _split(self, turns: list[Turn], tools: list[Any]) -> Rendering:
        """Render a conversation, and split off the beginning of the response that the template writes."""
        text, markers = self._render(turns, tools, generate=True), self.markers
        if markers is None or not any(mark in text[-_TAIL:] for mark in _marks(markers)):
            return Rendering(text)
        generation = self._generation(text, turns, tools)
        places = [at for mark in _marks(markers) if (at := generation.find(mark)) >= 0]
        if not places:
            return Rendering(text)
        opening = generation[min(places) :]
        head = text[: len(text) - len(opening)]
        space = self._space if opening.startswith(markers.open) and head.endswith(self._space) else ""
        return Rendering(head[: len(head) - len(space)], space, opening)

    def _generation(self, text: str, turns: list[Turn], tools: list[Any] | None) -> str:
        """The generation prompt of a rendered conversation."""
        bare = self._render(turns, tools, generate=False)
        if text.startswith(bare) and len(text) > len(bare):
            return text[len(bare) :]
        # Templates that always begin a turn: the opening is at the end.
        tail = text[-_TAIL:]
        return max((found[0] for known in MARKERS.values() if (found := _opened(known).search(tail))), key=len)

    def _turns(self, prompt: Prompt) -> tuple[list[Turn], list[Any]]:
        """The messages and tools of a prompt in the form that templates read."""
        tools = tools_of(prompt)
        thoughts = any("reasoning_content" in message.extra for message in prompt)
        form = self._shown[0] if thoughts and self._shown is not None else _FIELDS[0]
        turns: list[Turn] = []
        for message in prompt:
            if message.role == "tools":
                continue
            turn = {"role": message.role, "content": message.content, **message.extra}
            if "tool_calls" in turn:
                turn["tool_calls"] = with_objects(turn["tool_calls"])
            thought = turn.pop("reasoning_content", None)
            if message.role == "assistant" and (thought or form in _FORMS):
                turn |= _told(form, thought or "", message.content)
            turns.append(turn)
        return turns, tools

    def _tried(
        self, turns: list[Turn], tools: list[Any] | None = None, arguments: Mapping[str, Any] | None = None
    ) -> str:
        """The text of a conversation; empty if the template refuses it."""
        try:
            return self._render(turns, tools, generate=turns[-1]["role"] == "user", arguments=arguments)
        except PromptError:
            return ""

    def _render(
        self, turns: list[Turn], tools: list[Any] | None, *, generate: bool, arguments: Mapping[str, Any] | None = None
    ) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns,
                    tools=tools or None,
                    tokenize=False,
                    add_generation_prompt=generate,
                    **{**self.arguments, **(arguments or {})},
                )
            )
        except (TemplateError, TypeError) as error:
            raise PromptError(f"the chat template does not accept this prompt: {error}") from error


def chat_template(tokenizer: Tokenizer, arguments: Mapping[str, Any] | None = None) -> ChatTemplate | None:
    """The chat template of a tokenizer; None if it has none.

    Raises:
        ConfigurationError: The template does not use an argument, there is none, or there are several without a
            default.
    """
    several = tokenizer.chat_template
    if isinstance(several, dict) and "default" not in several:
        raise ConfigurationError(
            f"of the tokenizer's chat templates ({', '.join(several)}) none is named default; rename one, or keep one"
        )
    if tokenizer.chat_template is not None:
        return ChatTemplate(tokenizer, arguments)
    if arguments:
        raise ConfigurationError(f"there is no chat template for {', '.join(arguments)}")
    return None


_USER: Turn = {"role": "user", "content": _QUESTION}


def _told(form: str, thought: str, answer: str) -> Turn:
    """A turn with thought and answer, in one of the forms."""
    return _FORMS[form](thought, answer) if form in _FORMS else {"content": answer, form: thought}


def _around(text: str) -> Markers | None:
    """The markers around the thought of a turn, with their white space."""
    before, thought, after = text.rpartition(_THOUGHT)
    between, answer, _ = after.partition(_ANSWER)
    if not thought or not answer:
        return None
    head = before.rstrip()
    known = [one for one in MARKERS.values() if head.endswith(one.open) and between.lstrip().startswith(one.close)]
    fitting = [one for one in known if one.answer and between.endswith(one.answer)] or known
    return replace(fitting[0], lead=before[len(head) :], closing=between) if fitting else None


def _marks(markers: Markers) -> Iterator[str]:
    return (mark for mark in (markers.open, markers.close, markers.answer) if mark)


def _opened(markers: Markers) -> re.Pattern[str]:
    """Matches an opened or an empty thought at the end of a text."""
    return re.compile(f"({re.escape(markers.open)}\\s*)?({re.escape(markers.close)}\\s*)?$")


def _arguments_of(source: str) -> set[str]:
    """The names that a template uses, except those given to all templates."""
    environment = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False)  # noqa: S701 - nothing is rendered
    names = meta.find_undeclared_variables(environment.parse(_GENERATION_TAG.sub("", source)))
    return {name for name in names - _GIVEN if not name.endswith("_token")}
