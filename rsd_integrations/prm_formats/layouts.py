"""The input of a reward model for a step, and its tokenisation."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rsd_core import ConfigurationError, Message, Path, Prompt, PromptError, begun, split
from rsd_integrations.prm_formats.shown import shown_beginning

MARK = "⟦step⟧"
"""Placeholder for a step while a chat template is rendered."""
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Names of a message's thought in chat templates, the most common first."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A step as a verifier reads it, after the ids of its path."""

    feed: tuple[int, ...]
    """Ids to run through the model."""
    read: tuple[int, ...] = ()
    """Offsets in `feed` at which the score is read; -1 is the last kept token before it."""
    keep: int | None = None
    """How many ids of `feed` to keep for later steps; None keeps all. The others were only for reading the score."""

    @property
    def kept(self) -> tuple[int, ...]:
        """The ids to keep."""
        return self.feed[: self.keep]


class Tokenizer(Protocol):
    """What a format needs from a tokenizer; those of transformers provide it."""

    @property
    def chat_template(self) -> Any:
        """The template, if any."""

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
        """The token texts of ids."""

    def decode(self, token_ids: Any) -> Any:
        """The text of ids, including special tokens."""


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text on its own; names of special tokens in it become those tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def begin(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text at the very beginning, including anything the tokenizer prepends."""
    return list(tokenizer(text, add_special_tokens=True)["input_ids"])


def follow(tokenizer: Tokenizer, text: str, after: str, model: str) -> list[int]:
    """Ids of a text that follows another one; the last character of that one is enough.

    SentencePiece tokenizers prepend a space to a text on its own, but not to one that follows another.

    Raises:
        ConfigurationError: The tokenizer merges the two, so that a score would be read in the wrong place.
    """
    anchor = encode(tokenizer, after)
    ids = encode(tokenizer, after + text)
    if ids[: len(anchor)] != anchor:
        raise ConfigurationError(
            f"{model}: its tokenizer merges {after!r} with the beginning of {text[:20]!r}, so scores would be read "
            "in the wrong place. Use the tokenizer that was published with the reward model."
        )
    return ids[len(anchor) :]


_FIRM = re.compile(r"(?<=[^\W_])(?=\s)|(?<=\S)(?=[^\S\r\n])")


def firm(text: str) -> int:
    """Length of the prefix of a text whose tokens stay the same whatever follows; 0 if there is none.

    Byte-level tokenizers split a text by a pattern before merging. All of them split between a letter or digit and
    white space, and before a space or tab that follows something else: text after such a place never affects how the
    text before it is split. Line ends stay with the punctuation before them (`.` and a blank line are one token), and
    white space is split depending on what follows. SentencePiece tokens contain spaces only at their beginning.
    """
    return max((match.start() for match in _FIRM.finditer(text)), default=0)


def one_token(tokenizer: Tokenizer, text: str, model: str) -> int:
    """The id of a text that must be a single token.

    Raises:
        ConfigurationError: It is not a single token.
    """
    ids = encode(tokenizer, text)
    if len(ids) != 1:
        raise ConfigurationError(
            f"{model}: its tokenizer has no single token {text!r}, from which its judgement is read. Use the "
            "tokenizer that was published with the reward model, or name the format it was trained with."
        )
    return ids[0]


def turn(tokenizer: Tokenizer, messages: Sequence[Message], model: str) -> list[str]:
    """The text of a conversation through the chat template, cut at every `MARK`; the last message is kept unchanged.

    Raises:
        ConfigurationError: There is no chat template, or it cannot render a plain conversation.
        PromptError: The template drops or truncates some of the messages.
    """
    if not tokenizer.chat_template:
        raise ConfigurationError(
            f"{model}: its tokenizer has no chat template, which the format needs. Use the tokenizer that was "
            "published with the reward model."
        )
    *earlier, last = messages
    rows = [
        {"role": message.role, "content": text}
        | {name: message.extra[name] for name in REASONING if name in message.extra}
        for message, text in [*((message, said(message)) for message in earlier), (last, last.content)]
    ]
    try:
        text = str(tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=False))
    except Exception as error:  # a template may raise anything
        raise ConfigurationError(
            f"{model}: its chat template cannot render a conversation of {' and '.join(row['role'] for row in rows)} "
            f"({type(error).__name__}: {error}). Use the template that was published with the reward model; a "
            "tool-use template will not do."
        ) from error
    lost = [message for message in messages if said(message).strip() not in text]
    if lost:
        raise PromptError(
            f"{model}: its chat template drops or truncates the {lost[0].role} message {lost[0].content[:60]!r}, so "
            "the model would judge steps of a problem it cannot see. Use the template that was published with it."
        )
    return text.split(MARK)


def leading(render: Callable[[str], list[str]]) -> Callable[[str], str]:
    """How a chat template strips the beginning of a text, judging by white space before `MARK`.

    Args:
        render: Renders a conversation containing a given text, cut at every `MARK`.
    """
    return _stripped("".join(space for space in " \n" if render(space + MARK)[0] == render(MARK)[0]), str.lstrip)


def trailing(render: Callable[[str], list[str]]) -> Callable[[str], str]:
    """The same for the end of a text."""
    return _stripped("".join(space for space in " \n" if render(MARK + space)[-1] == render(MARK)[-1]), str.rstrip)


def _stripped(lost: str, strip: Callable[[str, str | None], str]) -> Callable[[str], str]:
    return lambda text: strip(text, None if " " in lost else lost) if lost else text


def problem(prompt: Prompt) -> str:
    """The problem alone, as written: no system message, no tools, no thoughts of earlier turns."""
    begins = begun(prompt)
    texts = [
        shown_beginning(Path(prompt)).text if message is begins else said(message)
        for message in prompt
        if message.role not in ("system", "tools")
    ]
    return "\n\n".join(texts)


def said(message: Message) -> str:
    """The text of a message, without the thought before it."""
    return split(message.content).answer if message.role == "assistant" else message.content
