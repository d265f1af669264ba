"""Turns paths into requests, with exact ids, exact text, or messages; and answers back into steps."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from rsd_core import ConfigurationError, Message, MissingDependency, Path, Prompt, PromptError, Step, Usage
from rsd_core.paths import begun
from rsd_core.thoughts.markers import Markers, Thinking
from rsd_core.thoughts.reading import beginning
from rsd_integrations.chat_fields import TOOL_FIELDS
from rsd_integrations.openai_compatible.answers import Answer
from rsd_integrations.openai_compatible.profile import Profile
from rsd_integrations.openai_compatible.request_fields import THOUGHTS, RequestFields
from rsd_integrations.openai_compatible.written import THINK
from rsd_integrations.tool_calls import tools_of, with_text

if TYPE_CHECKING:
    from rsd_integrations.inprocess.vocabulary import Vocabulary

Mode = Literal["completions", "chat"]


class OverlongError(PromptError):
    """The prompt and the steps after it are longer than the model's context."""


@dataclass(frozen=True, slots=True)
class SentPath:
    """The part of a request that represents a path."""

    route: str
    fields: dict[str, Any]
    characters: int
    size: int | None = None
    """Its length in tokens, if the tokenizer is known."""
    slack: int = 0
    """By how many tokens the server's count may differ: if it tokenises the text, newlines may merge across steps."""
    begun: str = ""
    """The text that a chat must continue."""
    markers: Markers = THINK
    """The markers around the thoughts of the response."""
    character: bytes = b""
    """The beginning of a character in which the sent ids end."""
    vocabulary: Vocabulary | None = None
    """What the ids of an answer mean, where they are asked for."""

    @property
    def estimate(self) -> int:
        """Its length in tokens: counted, or estimated as four characters each."""
        return self.characters // 4 if self.size is None else self.size

    @property
    def at_least(self) -> int:
        """Lower bound on its tokens: counted, or one per eight characters."""
        return 1 + self.characters // 8 if self.size is None else self.size

    @property
    def at_most(self) -> int:
        """Upper bound on its tokens: counted, or one per byte plus some for the template."""
        if self.size is not None:
            return self.size
        if "messages" not in self.fields:
            texts = [self.fields["prompt"]]
        else:
            messages = self.fields["messages"]
            texts = [message["content"] for message in messages]
            texts += [json.dumps(message["tool_calls"]) for message in messages if "tool_calls" in message]
            texts += [json.dumps(tool) for tool in self.fields.get("tools", ())]
        return sum(len(str(text).encode()) + 32 for text in texts)

    def longer(self, ids: Sequence[int]) -> SentPath:
        """The same with more ids at its end, for servers that accept ids."""
        assert self.size is not None
        return replace(
            self,
            fields={**self.fields, "prompt": [*self.fields["prompt"], *ids]},
            size=self.size + len(ids),
            character=b"" if ids else self.character,
        )

    def check_read(self, read: int | None, context: int | None) -> None:
        """Compare what the server reports having read with what it was sent.

        Raises:
            OverlongError: It read less, or more than its context: it silently truncated the prompt.
            ConfigurationError: It read more: it has another tokenizer, or adds a template.
        """
        if read is None:
            return
        if context is not None and read > context:
            raise OverlongError(f"the server accepted a prompt of {read} tokens, more than its context of {context}")
        if self.size is None:
            return
        if read < self.size - self.slack:
            raise OverlongError(
                f"the server read {read} tokens of a prompt of {self.size}: it silently truncates long prompts"
            )
        if read > self.size + self.slack + 1:  # a beginning-of-text token is harmless
            raise ConfigurationError(
                f"the server read {read} tokens although {self.size} were sent: the model's tokenizer is not the one "
                "given, or the server adds its own template to the prompt. Remedy: the model's own tokenizer=…, or "
                "mode=chat."
            )


class Prompts:
    """Builds requests in one mode, with the model's tokenizer if given.

    Args:
        tokenizer: Folder or hub id of the model's tokenizer.
        mode: `completions` or `chat`.
        fields: The user's part of requests: template arguments, and whether thoughts are sent back.
    """

    def __init__(self, tokenizer: str | None, mode: Mode, fields: RequestFields) -> None:
        self.mode, self._fields, self.tokenizer = mode, fields, tokenizer
        rendered = mode == "completions" and tokenizer is not None
        self.vocabulary = None if tokenizer is None else load_vocabulary(tokenizer, fields.template if rendered else {})
        if fields.template and mode == "completions" and tokenizer is None:
            raise ConfigurationError("template.NAME=… needs a tokenizer=… with a chat template, or mode=chat")

    def with_arguments(self, fields: Mapping[str, Any]) -> Prompts:
        """The same, with a request's template arguments (see `Vocabulary.with_fields`).

        Raises:
            ConfigurationError: There is no local template, or it does not use the argument.
        """
        other = copy.copy(self)
        if self.vocabulary is not None:
            other.vocabulary = self.vocabulary.with_fields(fields)
        elif fields:
            raise ConfigurationError(
                f"{' and '.join(fields)}: plain text is sent, without a chat template; give a tokenizer=…, or mode=chat"
            )
        return other

    def sending(self, fields: RequestFields) -> Prompts:
        """The same with other user fields."""
        other = copy.copy(self)
        other._fields = fields
        return other

    @property
    def renders_tools(self) -> bool | Literal["turn"]:
        """Whether the model sees tool definitions; chats get them when a whole turn is requested."""
        return "turn" if self.mode == "chat" else self.vocabulary is not None and self.vocabulary.renders_tools

    def thinking(self, prompt: Prompt) -> Thinking | None:
        """How the model thinks before it answers, by its template; None if the server renders the prompt."""
        if self.mode == "chat" or self.vocabulary is None:
            return None
        return self.vocabulary.thinking(prompt)

    def render(self, path: Path, profile: Profile, *, turn: bool = False) -> SentPath:
        """The request for what follows a path.

        Args:
            path: The path.
            profile: The server's.
            turn: Whether a whole turn is requested.
        """
        if self.mode == "chat":
            messages, text = conversation(path), ""
            fields: dict[str, Any] = {"messages": self.as_json(messages, profile)}
            if messages[-1].role == "assistant" and profile.continues is not None:
                text = messages[-1].content
                fields["messages"][-1] |= profile.begun
                fields |= profile.continues
            length = sum(len(message.content) for message in messages)
            if turn:
                tools = tools_of(path.prompt)
                fields |= {name: value for name, value in self._fields.turn.items() if tools or name not in TOOL_FIELDS}
                fields |= {"tools": tools} if tools else {}
                length += len(json.dumps(tools))
            return SentPath("chat/completions", fields, length, begun=text, markers=markers_of(path))
        if self.vocabulary is None:
            text = "\n\n".join(message.content for message in path.prompt if message.role != "tools") + path.text
            return SentPath("completions", {"prompt": text}, len(text))
        vocabulary = self.vocabulary.of(path)
        ids, _ = self.vocabulary.ids(path, goes_on=True)
        if profile.token_ids:
            begun = vocabulary.ids.begun(path)
            return SentPath("completions", {"prompt": ids}, 0, len(ids), character=begun, vocabulary=vocabulary)
        text = self.vocabulary.path_text(path)
        bos = self.vocabulary.tokenizer.bos_token
        if profile.adds_bos and isinstance(bos, str):
            text = text.removeprefix(bos)
        slack = path.depth + 1
        return SentPath("completions", {"prompt": text}, len(text), len(ids), slack, vocabulary=vocabulary)

    def as_json(self, messages: Sequence[Message], profile: Profile) -> list[dict[str, Any]]:
        """Messages in the server's format, with thoughts if it accepts them."""
        field = None if THOUGHTS in self._fields.omit else profile.takes_thoughts
        sent = []
        for message in messages:
            extra = dict(message.extra)
            thought = extra.pop(THOUGHTS, None)
            if thought and field is not None:
                extra[field] = thought
            if "tool_calls" in extra:
                extra["tool_calls"] = with_text(extra["tool_calls"])
            sent.append({"role": message.role, "content": message.content, **extra})
        return sent

    def step(self, answer: Answer, path: Path | None, vocabulary: Vocabulary | None = None) -> Step:
        """An answer as a step of text and ids, without the token that ends it all.

        If the ids are known, the text is theirs: a server cuts its text at the stop string, possibly in the middle of a
        token. A text cut inside a character ends before it, and the next request rewrites it.

        Args:
            answer: What arrived.
            path: The path that it continues; None if the answer cannot repeat its opening.
            vocabulary: What its ids mean, as in `SentPath`.
        """
        ids = answer.ids
        if vocabulary is not None and ids:
            if answer.ending == "end" and not vocabulary.pieces[ids[-1]]:
                ids = ids[:-1]
            return vocabulary.as_step(ids, answer.ending, answer.wrote or 0, before=answer.before)
        text = answer.text if path is None or self.mode != "chat" else _after_opening(answer.text, path)
        whole = text.rstrip("\ufffd") if answer.ending == "length" else ""
        partial = bool(whole) and whole != text
        return Step(whole if partial else text, answer.ending, size=answer.wrote or 0, partial=partial)

    def wrote(self, answer: Answer) -> int:
        """Tokens of an answer, by the server's count, else counted here."""
        if _counted(answer):
            return answer.wrote or 0
        return len(answer.ids) + answer.dropped or self.count(answer.text) + (answer.ending == "end")

    def usage(self, sent: SentPath, answer: Answer, seconds: float) -> Usage:
        """The work of an answer; what the server did not count is estimated, and marked as such."""
        read, wrote = sent.estimate if answer.read is None else answer.read, self.wrote(answer)
        estimated = read if answer.read is None and (sent.size is None or sent.slack) else 0
        if not _counted(answer):  # ids show what was received of a stream, not what was written when it was closed
            estimated += wrote
        computed = max(0, read - answer.cached) + wrote
        return Usage(read, computed, answer.cached, wrote, seconds=seconds, estimated=estimated)

    def count(self, text: str) -> int:
        """Tokens of a text that the server did not count: counted here, or estimated as four characters each."""
        return (len(text) + 3) // 4 if self.vocabulary is None else len(self.vocabulary.encode(text))


def _counted(answer: Answer) -> bool:
    """Whether a server counted its output; llama-cpp-python does not if the model ended the answer."""
    return bool(answer.wrote) or (answer.wrote == 0 and not answer.text and not answer.ids)


def conversation(path: Path, after: Sequence[Message] = ()) -> list[Message]:
    """A path as messages, and the messages that follow it."""
    messages = [message for message in path.prompt if message.role != "tools"]
    if path.step is not None:
        first = begun(path.prompt)
        before = beginning(messages.pop(), markers_of(path)) if first is not None else ""
        text = path.text
        if path.thinking is not None and path.thinking.is_off:  # the server's own template writes it
            text = text.removeprefix(path.thinking.opening)
        messages.append(Message("assistant", before + text))
    return [*messages, *after]


def markers_of(path: Path) -> Markers:
    """The markers around the thoughts of a response."""
    return THINK if path.thinking is None or path.thinking.markers is None else path.thinking.markers


def _after_opening(text: str, path: Path) -> str:
    """The text of a chat after the agreed opening of the response, which a chat writes itself."""
    opening = path.opening or ""
    if path.step is not None or not opening:
        return text
    if text.startswith(opening):
        return text[len(opening) :]
    markers = markers_of(path)
    if markers.close not in opening and text.strip():
        return markers.ending.lstrip("\n") + text  # it answered without a thought
    return text


def load_vocabulary(name: str, template: Mapping[str, Any]) -> Vocabulary:
    """A tokenizer by folder or hub id, without its model.

    Args:
        name: Folder or hub id.
        template: Arguments of its chat template.

    Raises:
        MissingDependency: The extra `huggingface` is not installed.
        ConfigurationError: There is no such tokenizer.
    """
    try:
        from transformers import AutoTokenizer

        from rsd_integrations.inprocess.vocabulary import Vocabulary
    except ModuleNotFoundError as error:
        raise MissingDependency(error.name or "transformers", "huggingface", f"tokenizer={name}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"tokenizer={name!r} is neither a folder with a tokenizer nor available on the hub: {error}"
        ) from error
    return Vocabulary(tokenizer, len(tokenizer) + _UNNAMED, template)


_UNNAMED = 2048
"""Rows that a model may have beyond its tokenizer's tokens."""
