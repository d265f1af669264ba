"""From a format and a tokenizer to the ids that a reward model reads."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

from rsd_core import ConfigurationError, Message, Prompt
from rsd_integrations.prm_formats.formats import PROBLEM, Chat, PRMFormat, Text, Turns, Words
from rsd_integrations.prm_formats.layouts import (
    MARK,
    Layout,
    Tokenizer,
    begin,
    encode,
    follow,
    one_token,
    problem,
    turn,
)


class Reader(ABC):
    """What one reward model reads. The ids of a prompt or a step never depend on what follows them."""

    def __init__(self, format: PRMFormat, tokenizer: Tokenizer, model: str) -> None:
        self.format, self.model, self.tokenizer = format, model, tokenizer

    @abstractmethod
    def prompt(self, prompt: Prompt) -> list[int]:
        """Ids before the first step."""

    @abstractmethod
    def step(self, text: str, number: int) -> Layout:
        """A step that is not blank; `number` counts such steps from 1. The score is read at its last fed token."""

    def words(self) -> tuple[int, int] | None:
        """Ids of the words for right and wrong, where the language model's own head judges."""
        for head in self.format.heads:
            if isinstance(head, Words):
                right, wrong = (one_token(self.tokenizer, word, self.model) for word in (head.right, head.wrong))
                return right, wrong
        return None


class StepReader(Reader):
    """Steps that follow each other in one text or one turn, each with its separator."""

    def __init__(self, format: PRMFormat, tokenizer: Tokenizer, model: str, separator: str) -> None:
        super().__init__(format, tokenizer, model)
        self._separator = separator
        self._mark = encode(tokenizer, separator)
        self._end = self._only_token(separator) if format.strict and separator else None
        if format.strict and format.apart and self._end is not None:
            self._mark = [self._end]
        closing = turn(tokenizer, _chat(()), model)[1] if format.closing == "turn" else ""
        self._closing = tuple(encode(tokenizer, closing))
        if isinstance(format.prompt, Chat):
            turn(tokenizer, _chat(()), model)  # a missing template is told before anything is scored
        if format.closing == "eos":
            if tokenizer.eos_token_id is None:
                raise ConfigurationError(f"{model}: its tokenizer has no end-of-text token, which scores are read at")
            self._closing = (int(tokenizer.eos_token_id),)

    def prompt(self, prompt: Prompt) -> list[int]:
        style, tokenizer = self.format.prompt, self.tokenizer
        if isinstance(style, Chat):
            return encode(tokenizer, self._opened(style, prompt))
        assert isinstance(style, Text)
        text = style.template.replace(PROBLEM, problem(prompt))
        if "{bos}" in text:
            return encode(tokenizer, text.replace("{bos}", tokenizer.bos_token or ""))
        return begin(tokenizer, text)

    def step(self, text: str, number: int) -> Layout:
        form = self.format
        lead = form.lead[number > 1].replace("{i}", str(number))
        text = self._clean(text)
        if re.match(r"Step \d+\s*[:.]", text) and "{i}" in form.lead[1]:  # the step is numbered already
            lead = lead.partition("Step")[0]
        if form.apart:
            ids = [*encode(self.tokenizer, lead + text), *self._mark]
        else:
            # What really comes before is not needed, only a text of its kind: a line's end, or a letter.
            ids = follow(self.tokenizer, lead + text + self._separator, "a" if lead else "\n", self.model)
        if self._end is not None and ids[-1] != self._end:
            raise ConfigurationError(
                f"{self.model}: its tokenizer joins the separator {self._separator!r} with the step {text[-40:]!r}, so "
                "its score cannot be read. Use the tokenizer that was published with the reward model."
            )
        return Layout((*ids, *self._closing), (len(ids) + len(self._closing) - 1,), len(ids))

    def _opened(self, style: Chat, prompt: Prompt) -> str:
        """The text up to the assistant's open turn, and what the prompt already says in it."""
        turns = tuple(message for message in prompt if message.role not in ("system", "tools"))
        opening = ""
        if style.user != PROBLEM:
            turns = (Message("user", style.user.replace(PROBLEM, problem(prompt))),)
        elif turns and turns[-1].role == "assistant":
            turns, opening = turns[:-1], turns[-1].content
        system = () if style.system is None else (Message("system", style.system),)
        return turn(self.tokenizer, _chat((*system, *turns)), self.model)[0] + opening

    def _clean(self, text: str) -> str:
        """A step without blank lines around it, and without separators inside: the model knows one per step."""
        text = re.sub(r"\A\s*[\r\n]", "", text)
        if not self._separator and not self.format.lead[1]:
            return text  # steps are told apart by their own blank lines
        if self._end is not None and not self.format.choose_separator:
            text = text.replace(self._separator, " ")
        return text.rstrip("\r\n")

    def _only_token(self, separator: str) -> int:
        """The id that the separator ends in. A space before it may be a token of its own."""
        for text in (separator, separator.strip(" ")):
            ids = (
                follow(self.tokenizer, text, "a", self.model) if not self.format.apart else encode(self.tokenizer, text)
            )
            if len(ids) == 1:
                return ids[0]
        raise ConfigurationError(
            f"{self.model}: its tokenizer has no token {separator!r}, which the format {self.format.name} reads scores "
            "at. Use the tokenizer that was published with the reward model, or name the format or separator it has."
        )


class TurnReader(Reader):
    """Each step is a turn of the user's, judged by the assistant's next word.

    The word that is fed back is always the one for a right step, as in the reference, so that what was read of a path
    never changes.
    """

    def __init__(self, format: PRMFormat, tokenizer: Tokenizer, model: str) -> None:
        super().__init__(format, tokenizer, model)
        shown = turn(tokenizer, [*_chat(()), Message("user", MARK), Message("assistant", MARK)], model)
        self._judge = encode(tokenizer, shown[2])
        """From the end of a step to the place of the judgement."""
        word = self.words()
        assert word is not None
        self._next = [word[0], *encode(tokenizer, shown[1])]
        """From a judgement to the next step."""

    def prompt(self, prompt: Prompt) -> list[int]:
        shown = turn(self.tokenizer, [Message("user", MARK), Message("assistant", MARK)], self.model)
        return encode(self.tokenizer, shown[0] + problem(prompt))

    def step(self, text: str, number: int) -> Layout:
        text = text.strip()
        between = self._next if number > 1 else []
        ids = [*between, *encode(self.tokenizer, text if number > 1 else f" {text}"), *self._judge]
        return Layout(tuple(ids), (len(ids) - 1,))


def bind(format: PRMFormat, tokenizer: Tokenizer, model: str, separator: str | None = None) -> Reader:
    """The reader of a format for one model's tokenizer.

    Args:
        format: The format.
        tokenizer: The reward model's own.
        model: Its name, for messages.
        separator: In place of the format's, where models of the kind differ in it.

    Raises:
        ConfigurationError: The separator is missing or cannot be chosen, or the tokenizer lacks tokens of the format.
    """
    if separator is not None and not format.choose_separator:
        raise ConfigurationError(
            f"{model}: the format {format.name} reads scores {format.read}; with the separator {separator!r} they "
            "would be read elsewhere. Leave the separator out, or name the format the model was trained in."
        )
    chosen = format.separator if separator is None else separator
    if chosen is None or (format.choose_separator and not chosen):
        raise ConfigurationError(
            f"{model}: models of the format {format.name} were trained with different separators, and their weights do "
            "not tell which. Name the one of its training: separator=\\n is TRL's default, separator=\\n\\n is common."
        )
    if isinstance(format.prompt, Turns):
        return TurnReader(format, tokenizer, model)
    return StepReader(format, tokenizer, model, chosen)


def _chat(before: Prompt) -> list[Message]:
    """A conversation whose assistant's turn is to be cut out."""
    return [*(before or (Message("user", "?"),)), Message("assistant", MARK)]
