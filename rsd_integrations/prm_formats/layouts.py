"""What a reward model is fed for a step, and how text becomes its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rsd_core import ConfigurationError, Message, Path, Prompt, PromptError, begun, split
from rsd_integrations.prm_formats.shown import shown_beginning

MARK = "⟦step⟧"
"""Stands for a step while a chat template is rendered."""
REASONING = ("reasoning_content", "reasoning", "thinking")
"""What chat templates call the thought of a message, the most usual name first."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A step as a verifier reads it, after the ids of its path."""

    feed: tuple[int, ...]
    """Ids that are run through the model."""
    read: tuple[int, ...] = ()
    """Offsets in `feed` whose outputs make the score; -1 is the last kept token before it."""
    keep: int | None = None
    """How many ids of `feed` stay in front of what follows; None keeps all. The others were only for reading."""

    @property
    def kept(self) -> tuple[int, ...]:
        """The ids that stay."""
        return self.feed[: self.keep]


class Tokenizer(Protocol):
    """What a format needs of a tokenizer; those of transformers have it."""

    @property
    def chat_template(self) -> Any:
        """The template, or nothing."""

    @property
    def bos_token(self) -> Any:
        """The token that begins a text, or None."""

    @property
    def bos_token_id(self) -> Any:
        """Its id."""

    @property
    def eos_token_id(self) -> Any:
        """Id of the token that ends a text, or None."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any:
        """Tokenise a text."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Render messages."""

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """The names of ids."""

    def decode(self, token_ids: Any) -> Any:
        """The text of ids, special tokens included."""


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text that stands alone; names of special tokens in it become those tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def begin(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text at the very beginning, with what the tokenizer puts before one."""
    return list(tokenizer(text, add_special_tokens=True)["input_ids"])


def follow(tokenizer: Tokenizer, text: str, after: str, model: str) -> list[int]:
    """Ids of a text that follows another one, of which the last character is enough.

    Tokenizers of the SentencePiece kind put a space before a text that stands alone. Following a text, it has none.

    Raises:
        ConfigurationError: The tokenizer joins the two, so that a score would be read at another place.
    """
    anchor = encode(tokenizer, after)
    ids = encode(tokenizer, after + text)
    if ids[: len(anchor)] != anchor:
        raise ConfigurationError(
            f"{model}: its tokenizer joins {after!r} with the beginning of {text[:20]!r}, so scores would be read at "
            "the wrong place. Use the tokenizer that was published with the reward model."
        )
    return ids[len(anchor) :]


def one_token(tokenizer: Tokenizer, text: str, model: str) -> int:
    """The id of a text that has to be a single token.

    Raises:
        ConfigurationError: It is none, or several.
    """
    ids = encode(tokenizer, text)
    if len(ids) != 1:
        raise ConfigurationError(
            f"{model}: its tokenizer has no single token {text!r}, which its judgement is read from. Use the tokenizer "
            "that was published with the reward model, or name the format it was trained in."
        )
    return ids[0]


def turn(tokenizer: Tokenizer, messages: Sequence[Message], model: str) -> list[str]:
    """The text of a conversation through the chat template, cut at every `MARK`.

    Raises:
        ConfigurationError: There is no chat template.
        PromptError: The template leaves out or cuts some of the messages.
    """
    if not tokenizer.chat_template:
        raise ConfigurationError(
            f"{model}: its tokenizer has no chat template, which the format needs. Use the tokenizer that was "
            "published with the reward model."
        )
    rows = [
        {"role": message.role, "content": said(message)}
        | {name: message.extra[name] for name in REASONING if name in message.extra}
        for message in messages
    ]
    text = str(tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=False))
    lost = [message for message in messages if said(message).strip() not in text]
    if lost:
        raise PromptError(
            f"{model}: its chat template drops or cuts the {lost[0].role} message {lost[0].content[:60]!r}, so the "
            "model would judge steps of a problem it cannot see. Use the template that was published with it."
        )
    return text.split(MARK)


def problem(prompt: Prompt) -> str:
    """The problem alone: no system message, no tools, no thoughts of earlier turns."""
    begins = begun(prompt)
    texts = [
        shown_beginning(Path(prompt)).text if message is begins else said(message)
        for message in prompt
        if message.role not in ("system", "tools")
    ]
    return "\n\n".join(texts).strip()


def said(message: Message) -> str:
    """The text of a message, without the thought before it."""
    return split(message.content).answer if message.role == "assistant" else message.content
