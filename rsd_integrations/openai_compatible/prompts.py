"""What is sent for a path: the exact ids, the exact text, or messages; and back from what was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from rsd_core import ConfigurationError, Message, MissingDependency, Path, PromptError
from rsd_integrations.openai_compatible.answers import Answer
from rsd_integrations.openai_compatible.profiles import Profile

if TYPE_CHECKING:
    from rsd_integrations.huggingface.vocabulary import Vocabulary

Mode = Literal["completions", "chat"]


class OverlongError(PromptError):
    """The prompt and the steps after it are longer than the model's context."""


@dataclass(frozen=True, slots=True)
class SentPath:
    """The part of a request that stands for a path."""

    route: str
    fields: dict[str, Any]
    characters: int
    size: int | None = None
    """Its length in tokens, where the tokenizer is known."""
    slack: int = 0
    """By how many tokens the server's count may differ: where it makes the tokens, newlines may join across steps."""

    @property
    def estimate(self) -> int:
        """Its length in tokens: counted, or four characters each."""
        return self.characters // 4 if self.size is None else self.size

    def longer(self, ids: Sequence[int]) -> SentPath:
        """The same with more ids at its end; for servers that take ids."""
        assert self.size is not None
        return replace(
            self, fields={**self.fields, "prompt": [*self.fields["prompt"], *ids]}, size=self.size + len(ids)
        )

    def check_read(self, read: int | None, context: int | None) -> None:
        """Compare what the server says it read with what it was sent.

        Raises:
            OverlongError: It read less, or more than its context: it cut the prompt without saying so.
            ConfigurationError: It read more: it has another tokenizer, or puts a template around.
        """
        if read is None:
            return
        if context is not None and read > context:
            raise OverlongError(f"the server took a prompt of {read} tokens, more than its context of {context}")
        if self.size is None:
            return
        if read < self.size - self.slack:
            raise OverlongError(
                f"the server read {read} tokens of a prompt of {self.size}: it cuts what is too long without saying so"
            )
        if read > self.size + self.slack + 1:  # a token for the beginning is no harm
            raise ConfigurationError(
                f"the server read {read} tokens where {self.size} were sent: the model has another tokenizer than the "
                "one given, or the server puts a template of its own around the prompt. Remedy: the model's own "
                "tokenizer=…, or mode=chat."
            )


class Prompts:
    """Makes what is sent, in one mode, with the model's tokenizer where it was given."""

    def __init__(self, tokenizer: str | None, mode: Mode) -> None:
        self.mode = mode
        self.vocabulary = None if tokenizer is None else load_vocabulary(tokenizer)

    @property
    def renders_tools(self) -> bool:
        """Whether the model sees the definitions of tools."""
        return self.mode == "completions" and self.vocabulary is not None and self.vocabulary.renders_tools

    def render(self, path: Path, profile: Profile) -> SentPath:
        """The request for what follows a path."""
        if self.mode == "chat":
            messages = conversation(path)
            continued = messages[-1].role == "assistant"
            return SentPath(
                "chat/completions",
                {"messages": as_json(messages), **((profile.continues or {}) if continued else {})},
                sum(len(message.content) for message in messages),
            )
        if self.vocabulary is None:
            text = "\n\n".join(message.content for message in path.prompt if message.role != "tools") + path.text
            return SentPath("completions", {"prompt": text}, len(text))
        ids, _ = self.vocabulary.ids(path)
        if profile.token_ids:
            return SentPath("completions", {"prompt": ids}, 0, len(ids))
        text = self.vocabulary.prompt_text(path.prompt) + path.text
        return SentPath("completions", {"prompt": text}, len(text), len(ids), slack=path.depth + 1)

    def written(self, answer: Answer) -> tuple[str, tuple[int, ...]]:
        """Text and ids of an answer, without the token that ends it all.

        Where the ids are known, the text is theirs: a server cuts it at the stop string, which may be in the middle of
        a token.

        Raises:
            ConfigurationError: The ids are not those of this vocabulary.
        """
        vocabulary = self.vocabulary
        if vocabulary is None or not answer.ids:
            return answer.text, ()
        ids = answer.ids
        if max(ids) >= len(vocabulary.pieces):
            raise ConfigurationError(f"the server wrote the token {max(ids)}, which is not in the tokenizer given")
        if answer.ending == "end" and not vocabulary.pieces[ids[-1]]:
            ids = ids[:-1]
        text = vocabulary.text(list(ids))
        if not text.lstrip().startswith(answer.text.rstrip("\ufffd").strip()):
            raise ConfigurationError(
                f"the server wrote {answer.text!r}, which in the tokenizer given reads {text!r}: it is another model's"
            )
        return text, ids

    def count(self, text: str) -> int:
        """Tokens of a text that the server did not count: counted here, or four characters each."""
        return (len(text) + 3) // 4 if self.vocabulary is None else len(self.vocabulary.encode(text))


def conversation(path: Path, after: Sequence[Message] = ()) -> list[Message]:
    """A path as messages, and those that follow it."""
    messages = [message for message in path.prompt if message.role != "tools"]
    if path.text:
        beginning = messages.pop().content if messages[-1].role == "assistant" and not messages[-1].extra else ""
        messages.append(Message("assistant", beginning + path.text))
    return [*messages, *after]


def as_json(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as servers take them."""
    return [{"role": message.role, "content": message.content, **message.extra} for message in messages]


def load_vocabulary(name: str) -> Vocabulary:
    """A tokenizer by folder or hub id, without its model.

    Raises:
        MissingDependency: The packages of the extra `huggingface` are not installed.
        ConfigurationError: No such tokenizer.
    """
    try:
        from transformers import AutoTokenizer

        from rsd_integrations.huggingface.vocabulary import Vocabulary
    except ModuleNotFoundError as error:
        raise MissingDependency(error.name or "transformers", "huggingface", f"tokenizer={name}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"tokenizer={name!r} is no folder with a tokenizer and none that can be fetched from the hub: {error}"
        ) from error
    return Vocabulary(tokenizer, len(tokenizer) + _UNNAMED)


_UNNAMED = 2048
"""Rows that a model may have beyond the tokens that its tokenizer names."""
