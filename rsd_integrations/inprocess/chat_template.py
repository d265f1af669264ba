"""A chat template: the text of a prompt, the arguments it takes, and what it tells of a model's thoughts."""

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
"""A message as templates read it."""
_QUESTION, _THOUGHT, _ANSWER, _RESPONSE = "⟦question⟧", "⟦thought⟧", "⟦answer⟧", "⟦response⟧"
"""Stand for texts while a template is tried out."""
_GIVEN = {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"}
"""Names in a template that are no arguments of the user's; nor are those of special tokens."""
_GENERATION_TAG = re.compile(r"{%[-+]?\s*(end)?generation\s*[-+]?%}")
"""Marks what a model wrote, for training; jinja itself does not know it."""
_SWITCHES = ("enable_thinking", "thinking")
"""Arguments that ask for a thought where they are true."""
_TAIL = 1024
"""Characters at the end of a rendered prompt that hold what the template opens of the response."""
_RENDERINGS = 64
"""Prompts whose rendering is kept: each is asked for when a request begins, and when it is first read."""


def _blocks(thought: str, answer: str) -> Turn:
    shown = [{"type": "thinking", "thinking": thought}] if thought else []
    return {"content": [*shown, {"type": "text", "text": answer}]}


def _parts(thought: str, answer: str) -> Turn:
    shown = [{"type": "thoughts", "text": thought}] if thought else []
    return {"content": {"blocks": [*shown, {"type": "response", "text": answer}]}}


_FIELDS = ("reasoning_content", "reasoning", "thinking")
_FORMS: dict[str, Callable[[str, str], Turn]] = {"blocks": _blocks, "parts": _parts}
"""Forms of a whole content that holds the thought, of templates that read no field for it."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """A prompt as the template writes it."""

    head: str
    """Up to the response."""
    space: str = ""
    """White space that comes before the opening."""
    opening: str = ""
    """What the template writes of the response itself, from a marker on."""

    @property
    def text(self) -> str:
        """All of it."""
        return self.head + self.space + self.opening


class Tokenizer(Protocol):
    """What is asked of a tokenizer, in the words of transformers."""

    @property
    def chat_template(self) -> Any:
        """The template, or several by name; None where there is none."""

    @property
    def bos_token(self) -> Any:
        """What begins a text; None where nothing does."""

    @property
    def eos_token_id(self) -> Any:
        """What ends an answer; None where nothing is named."""

    @property
    def added_tokens_decoder(self) -> Any:
        """Tokens beside the merged ones by id, each with its `content` and whether it is `special`."""

    @property
    def all_special_ids(self) -> Any:
        """Ids of the tokens that are named as no text."""

    def __call__(self, text: Any, /, *, add_special_tokens: bool = True) -> Any:
        """`{"input_ids": [...]}` of a text, with or without `add_special_tokens`."""

    def get_vocab(self) -> dict[str, int]:
        """Ids by token."""

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """The names of ids."""

    def decode(self, token_ids: Any) -> Any:
        """The text of ids, special tokens included."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Render messages."""


class ChatTemplate:
    """The chat template of a tokenizer, with the arguments that the user gives to it.

    Args:
        tokenizer: A tokenizer that has one.
        arguments: Such as `enable_thinking`, by name.

    Raises:
        ConfigurationError: The template uses no such argument, or a switch is neither true nor false.
    """

    def __init__(self, tokenizer: Tokenizer, arguments: Mapping[str, Any] | None = None) -> None:
        self._tokenizer = tokenizer
        template = tokenizer.chat_template
        self.source = "\n".join(template.values()) if isinstance(template, dict) else str(template)
        """Its text; of tokenizers with several templates, all of them."""
        if not isinstance(arguments or {}, Mapping):
            raise ConfigurationError(f"template takes arguments by name, such as enable_thinking (got {arguments!r})")
        self.arguments = dict(arguments or {})
        if self.arguments:
            names = sorted(_arguments_of(self.source))
            for name, value in self.arguments.items():
                if not names:
                    raise ConfigurationError(
                        f"this model's chat template takes no arguments (got {name!r}): leave it out"
                    )
                if name not in names:
                    raise ConfigurationError(unknown("template argument", name, names))
                if name in _SWITCHES and not isinstance(value, bool):  # templates take the text "false" for true
                    raise ConfigurationError(f"the template argument {name} takes true or false (got {value!r})")
        self._renderings: OrderedDict[int, tuple[Prompt, Rendering]] = OrderedDict()
        self._lock = threading.Lock()

    def thinking(self, prompt: Prompt) -> Thinking | None:
        """How the model thinks before it answers a prompt; None where the template says nothing of it."""
        markers = self.markers
        if markers is None:
            tokens = self._added_tokens
            return None if any(known.open in tokens for known in MARKERS.values()) else Thinking(None)
        opening = self.rendering(prompt).opening
        if begun(prompt) is None and opening:
            return Thinking(markers, opening)
        return Thinking(None if self._is_off(opening) else markers)

    def start(self, prompt: Prompt, thinking: Thinking | None = None) -> str:
        """What a model reads before the first step.

        Args:
            prompt: The prompt. A last message that begins the response stands there as it is: templates drop thoughts
                and trim white space.
            thinking: How all models of the request begin the response; None leaves that to the template.
        """
        rendering, message = self.rendering(prompt), begun(prompt)
        if message is not None:
            own = None if thinking is None else thinking.markers
            return self._begun(rendering, *self._turns(prompt[:-1]), beginning(message, own or self.markers))
        if thinking is None or (self.markers and thinking.opening == rendering.opening):
            return rendering.text
        if self.markers is None and thinking.markers is not None:  # the user's own: does the template open them?
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
        else:  # a model that thinks says it inside of a thought, as SpecReason lets it (arXiv 2504.07891)
            text = self._joined(rendering, self.markers.begin(message.content))
        _, response, rest = text.rpartition(_RESPONSE)
        if not response:
            raise ConfigurationError("the chat template drops earlier turns of the assistant, so no step can be judged")
        return rest

    def rendering(self, prompt: Prompt) -> Rendering:
        """A prompt as the template writes it, without a last message that is the beginning of the response."""
        with self._lock:
            known = self._renderings.get(id(prompt))
            if known is not None:  # the prompt is kept with it, so no other one has its id
                return known[1]
        rendering = self._split(*self._turns(prompt if begun(prompt) is None else prompt[:-1]))
        with self._lock:
            self._renderings[id(prompt)] = prompt, rendering
            if len(self._renderings) > _RENDERINGS:
                self._renderings.popitem(last=False)
        return rendering

    @cached_property
    def markers(self) -> Markers | None:
        """The markers of thoughts, with the white space that the template puts around them; None where it has none."""
        return self._known and replace(self._known, before=self._space)

    @cached_property
    def _known(self) -> Markers | None:
        """The markers, without what stands before them."""
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
        known.sort(key=lambda markers: not markers.answer)  # those that say most come first
        _, generation = self._tried_question
        markers = next((one for one in known if one.open in generation), known[0])
        opened = generation.rpartition(markers.open)[2]
        if (markers.open in generation and not opened) or f"{markers.open}{markers.close}{_ANSWER}" in self._answered:
            return replace(markers, lead="", closing=markers.close + markers.ending.partition(markers.close)[2].strip())
        return markers

    @cached_property
    def _tried_question(self) -> tuple[str, str]:
        """The text of a prompt, and what of it the generation prompt is."""
        text = self._render([_USER], None, generate=True)
        return text, self._generation(text, [_USER], None)

    @cached_property
    def _answered(self) -> str:
        """The text of an answer without a thought."""
        return self._tried([_USER, {"role": "assistant", "content": _ANSWER}])

    @cached_property
    def _shown(self) -> tuple[str, Markers] | None:
        """In what form a turn holds its thought, and what the template puts around; None where it shows none."""
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
        """The arguments of the template that ask for a thought."""
        names = _arguments_of(self.source)
        return [name for name in _SWITCHES if name in names]

    @cached_property
    def _must_be_asked(self) -> bool:
        """Whether the template opens no thought because an argument that asks for thoughts is not true."""
        asked = [self._tried([_USER], arguments={name: True}) for name in self._switches]
        return bool(asked) and self._tried_question[0] not in asked

    @cached_property
    def _space(self) -> str:
        """The white space that the model itself writes before it opens its thought."""
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
        """Whether the model answers without a thought where the template opens this."""
        if opening or self.markers is None:
            return Thinking(self.markers, opening).is_off or opening.startswith(self._closers)
        return self._must_be_asked

    @cached_property
    def _closers(self) -> tuple[str, ...]:
        """What an opening begins with where no thought comes."""
        markers = self.markers
        return () if markers is None else tuple(mark for mark in (markers.close, markers.answer) if mark)

    def _begun(self, rendering: Rendering, turns: list[Turn], tools: list[Any], text: str) -> str:
        """A rendered conversation with a response that was begun after it.

        Before an answer without a thought stands what the template puts there: an empty thought, a marker, a space.
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
        """The prompt with the beginning of a response in place of what the template opens."""
        if not self._begins_thought(text):
            return rendering.head + text
        assert self.markers is not None
        return rendering.head + self._space + text[text.index(self.markers.open) :]

    def _split(self, turns: list[Turn], tools: list[Any]) -> Rendering:
        """A rendered conversation up to where the model goes on, and what the template writes of its response."""
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
        """What of a rendered conversation the generation prompt is."""
        bare = self._render(turns, tools, generate=False)
        if text.startswith(bare) and len(text) > len(bare):
            return text[len(bare) :]
        # Templates that always begin a turn: what they open is at the end.
        tail = text[-_TAIL:]
        return max((found[0] for known in MARKERS.values() if (found := _opened(known).search(tail))), key=len)

    def _turns(self, prompt: Prompt) -> tuple[list[Turn], list[Any]]:
        """The messages and the tools of a prompt as templates read them."""
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
        """The text of a conversation; empty where the template refuses it."""
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
            raise PromptError(f"the chat template does not take this prompt: {error}") from error


def chat_template(tokenizer: Tokenizer, arguments: Mapping[str, Any] | None = None) -> ChatTemplate | None:
    """The chat template of a tokenizer; None where it has none.

    Raises:
        ConfigurationError: The template uses no such argument, or there is none.
    """
    if tokenizer.chat_template is not None:
        return ChatTemplate(tokenizer, arguments)
    if arguments:
        raise ConfigurationError(f"there is no chat template that takes {', '.join(arguments)}")
    return None


_USER: Turn = {"role": "user", "content": _QUESTION}


def _told(form: str, thought: str, answer: str) -> Turn:
    """Thought and answer of a turn in one of the forms."""
    return _FORMS[form](thought, answer) if form in _FORMS else {"content": answer, form: thought}


def _around(text: str) -> Markers | None:
    """The markers that stand around the thought of a turn, with their white space."""
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
    """An opened thought at the end of a text, or an empty one."""
    return re.compile(f"({re.escape(markers.open)}\\s*)?({re.escape(markers.close)}\\s*)?$")


def _arguments_of(source: str) -> set[str]:
    """The names that a template uses and that are not given to all templates."""
    environment = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False)  # noqa: S701 - nothing is rendered
    names = meta.find_undeclared_variables(environment.parse(_GENERATION_TAG.sub("", source)))
    return {name for name in names - _GIVEN if not name.endswith("_token")}
