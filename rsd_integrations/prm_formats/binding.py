"""Creates a reader from a format and a tokenizer."""

from __future__ import annotations

from typing import Any

from rsd_core import ConfigurationError
from rsd_integrations.prm_formats.formats import Chat, PRMFormat, Turns
from rsd_integrations.prm_formats.layouts import Tokenizer
from rsd_integrations.prm_formats.readers import Reader, StepReader, TurnReader
from rsd_integrations.prm_formats.reply_reader import ReplyReader


def bind(format: PRMFormat, tokenizer: Tokenizer, model: str, separator: str | None = None) -> Reader[Any]:
    """The reader of a format for one model's tokenizer.

    Args:
        format: The format.
        tokenizer: The reward model's own.
        model: Its name, for messages.
        separator: Overrides the format's, if models of this kind differ in it.

    Raises:
        ConfigurationError: The separator is missing or cannot be chosen, or the tokenizer lacks tokens of the format.
    """
    if separator is not None and not format.choose_separator:
        raise ConfigurationError(
            f"{model}: the format {format.name} reads scores {format.read}; with the separator {separator!r} they "
            "would be read elsewhere. Omit the separator, or name the format the model was trained with."
        )
    chosen = format.separator if separator is None else separator
    if chosen is None or (format.choose_separator and not chosen):
        raise ConfigurationError(
            f"{model}: models of the format {format.name} were trained with different separators, and the weights do "
            "not show which. Give the one used in training: separator=\\n is TRL's default, separator=\\n\\n is "
            "common."
        )
    if isinstance(format.prompt, Turns):
        return TurnReader(format, tokenizer, model)
    if format.closing == "turn":
        if chosen or not isinstance(format.prompt, Chat):
            raise ConfigurationError(
                f"{model}: the format {format.name} is read at the end of the assistant's turn, which needs a chat "
                "and no separator"
            )

        return ReplyReader(format, tokenizer, model)
    return StepReader(format, tokenizer, model, chosen)
