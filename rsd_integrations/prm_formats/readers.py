"""From a format and a tokenizer to the ids that a reward model reads."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from rsd_core import ConfigurationError, Message, Path, Prompt, begun
from rsd_integrations.prm_formats.formats import PROBLEM, Chat, PRMFormat, Text, Turns, Words
from rsd_integrations.prm_formats.layouts import (
    MARK,
    REASONING,
    Layout,
    Tokenizer,
    begin,
    encode,
    follow,
    one_token,
    problem,
    turn,
)
from rsd_integrations.prm_formats.shown import Shown, shown_beginning

At = TypeVar("At")
"""How far a response is read, as its reader needs to know it; compares by value."""


class Reader(ABC, Generic[At]):
    """What one reward model reads, markers of thoughts left out.

    What stays of a prompt or a step never depends on what follows it.
    """

    def __init__(self, format: PRMFormat, tokenizer: Tokenizer, model: str) -> None:
        self.format, self.model, self.tokenizer = format, model, tokenizer

    @abstractmethod
    def prompt(self, root: Path) -> tuple[list[int], At]:
        """Ids before the first step."""

    @abstractmethod
    def step(self, step: Shown, at: At) -> tuple[Layout, At]:
        """A step that is not blank. The score is read at its last fed token."""

    def words(self) -> tuple[int, int] | None:
        """Ids of the words for right and wrong, where the language model's own head judges."""
        for head in self.format.heads:
            if isinstance(head, Words):
                right, wrong = (one_token(self.tokenizer, word, self.model) for word in (head.right, head.wrong))
                return right, wrong
        return None


class StepReader(Reader[int]):
    """Steps that follow each other in one text or one turn, each with its separator, those of a thought as others."""

    def __init__(self, format: PRMFormat, tokenizer: Tokenizer, model: str, separator: str) -> None:
        super().__init__(format, tokenizer, model)
        self._separator = separator
        self._mark = encode(tokenizer, separator)
        self._end = self._only_token(separator) if format.strict and separator else None
        if format.strict and format.apart and self._end is not None:
            self._mark = [self._end]
        self._closing: tuple[int, ...] = ()
        if isinstance(format.prompt, Chat):
            turn(tokenizer, _chat(()), model)  # a missing template is told before anything is scored
        if format.closing == "eos":
            if tokenizer.eos_token_id is None:
                raise ConfigurationError(f"{model}: its tokenizer has no end-of-text token, which scores are read at")
            self._closing = (int(tokenizer.eos_token_id),)

    def prompt(self, root: Path) -> tuple[list[int], int]:
        return self._prompt(root), 0

    def step(self, step: Shown, at: int) -> tuple[Layout, int]:
        """`at` is the number of steps so far."""
        return self._step(step, at + 1), at + 1

    def _prompt(self, root: Path) -> list[int]:
        style, tokenizer = self.format.prompt, self.tokenizer
        if isinstance(style, Chat):
            return encode(tokenizer, self._opened(style, root))
        assert isinstance(style, Text)
        text = style.template.replace(PROBLEM, problem(root.prompt))
        if "{bos}" in text:
            return encode(tokenizer, text.replace("{bos}", tokenizer.bos_token or ""))
        return begin(tokenizer, text)

    def _step(self, step: Shown, number: int) -> Layout:
        form = self.format
        lead = form.lead[number > 1].replace("{i}", str(number))
        if not self._separator:
            lead = step.gap + lead
        text = self._clean(step.text)
        if re.match(r"Step \d+\s*[:.]", text) and "{i}" in form.lead[1]:  # the step is numbered already
            lead = lead.partition("Step")[0]
        if form.apart:
            ids = [*encode(self.tokenizer, lead + text), *self._mark]
        else:
            # What really comes before is not needed, only a text of its kind: a letter, where white space divides it
            # from this one, or a line's end.
            ids = follow(self.tokenizer, lead + text + self._separator, "a" if lead[:1].isspace() else "\n", self.model)
        if self._end is not None and ids[-1] != self._end:
            raise ConfigurationError(
                f"{self.model}: its tokenizer joins the separator {self._separator!r} with the step {text[-40:]!r}, so "
                "its score cannot be read. Use the tokenizer that was published with the reward model."
            )
        return Layout((*ids, *self._closing), (len(ids) + len(self._closing) - 1,), len(ids))

    def _opened(self, style: Chat, root: Path) -> str:
        """The text up to the assistant's open turn, and what the prompt already says in it."""
        return turn(self.tokenizer, _chat(_turns(style, root.prompt)), self.model)[0] + _begun(style, root).text

    def _clean(self, text: str) -> str:
        """A step without blank lines around it, and without separators inside: the model knows one per step."""
        text = re.sub(r"\A\s*[\r\n]", "", text)
        if not self._separator and not self.format.lead[1]:
            return text  # steps are told apart by their own blank lines
        if self._end is not None and not self.format.choose_separator:
            text = text.replace(self._separator, " ")
        return text.rstrip("\r\n")

    def _only_token(self, separator: str) -> int:
        """The id that the separator ends in. White space before it may be a token of its own."""
        for text in (separator, separator.strip(" "), separator.strip()):
            ids = (
                follow(self.tokenizer, text, "a", self.model) if not self.format.apart else encode(self.tokenizer, text)
            )
            if len(ids) == 1:
                return ids[0]
        raise ConfigurationError(
            f"{self.model}: its tokenizer has no token {separator!r}, which the format {self.format.name} reads scores "
            "at. Use the tokenizer that was published with the reward model, or name the format or separator it has."
        )


class TurnReader(Reader[int]):
    """Each step is a turn of the user's, judged by the assistant's next word.

    The word that is fed back is always the one for a right step, as in the reference, so that what was read of a path
    never changes.
    """

    def __init__(self, format: PRMFormat, tokenizer: Tokenizer, model: str) -> None:
        super().__init__(format, tokenizer, model)
        assert isinstance(format.prompt, Turns)
        self._ask = format.prompt.ask
        shown = turn(tokenizer, [*_chat(()), Message("user", MARK), Message("assistant", MARK)], model)
        self._judge = encode(tokenizer, shown[2])
        """From the end of a step to the place of the judgement."""
        word = self.words()
        assert word is not None
        self._next = [word[0], *encode(tokenizer, shown[1])]
        """From a judgement to the next step."""

    def prompt(self, root: Path) -> tuple[list[int], int]:
        shown = turn(self.tokenizer, [Message("user", MARK), Message("assistant", MARK)], self.model)
        return encode(self.tokenizer, shown[0] + problem(root.prompt)), 0

    def step(self, step: Shown, at: int) -> tuple[Layout, int]:
        """`at` is the number of steps so far."""
        text = step.text.strip()
        between = self._next if at else []
        ids = [*between, *encode(self.tokenizer, (text if at else f" {text}") + self._ask), *self._judge]
        return Layout(tuple(ids), (len(ids) - 1,)), at + 1


@dataclass(frozen=True, slots=True)
class Reply:
    """How far the assistant's turn is read."""

    leads: tuple[str, str]
    """What the template writes before a thought, and before an answer that no thought comes before."""
    part: Literal["", "thought", "answer"] = ""
    """Part of the response that was read last."""
    tail: str = ""
    """The last text of it."""
    settled: int = 0
    """How many of its tokens are read; the others depend on whether the part goes on or ends."""


class ReplyReader(Reader[Reply]):
    """The conversation as the chat template renders it, with all of the response so far as its last, finished turn.

    The thought goes where the template has one, and is part of the text before the answer where it has none.
    """

    def __init__(self, format: PRMFormat, tokenizer: Tokenizer, model: str) -> None:
        super().__init__(format, tokenizer, model)
        assert isinstance(format.prompt, Chat)
        self._style = format.prompt
        _, shown = turn(tokenizer, [Message("user", "?"), Message("assistant", f"{MARK}\n\n")], model)
        _, self._closing = turn(tokenizer, _chat(()), model)
        self._trims = shown != f"\n\n{self._closing}"
        """Whether the template cuts blank lines at the end of an answer."""
        self._between = ""
        """What comes between the thought and the answer."""
        self._name = ""
        """What the template calls the thought of a message; empty where it knows none."""
        for name in REASONING:
            parts = turn(tokenizer, [Message("user", "?"), _thinking(name)], model)
            if len(parts) == 3:
                self._name, self._between = name, parts[1]
                break

    def prompt(self, root: Path) -> tuple[list[int], Reply]:
        """Ids of the turns before the response. How that begins depends on whether it has a thought."""
        turns = list(_turns(self._style, root.prompt)) or [Message("user", "?")]
        before = turn(self.tokenizer, turns, self.model)[0]
        answer = turn(self.tokenizer, [*turns, Message("assistant", MARK)], self.model)[0]
        thought = turn(self.tokenizer, [*turns, _thinking(self._name)], self.model)[0] if self._name else answer
        if not (answer.startswith(before) and thought.startswith(before)):
            before = ""
        at = Reply((thought.removeprefix(before), answer.removeprefix(before)))
        ids, own = encode(self.tokenizer, before), _begun(self._style, root)
        if own:
            layout, at = self.step(own, at)
            ids += layout.kept
        return ids, at

    def step(self, step: Shown, at: Reply) -> tuple[Layout, Reply]:
        fed: list[int] = []
        parts: list[tuple[Literal["thought", "answer"], str]] = [("answer", step.gap + step.text)]
        if self._name:
            parts = [("thought", step.thought), ("answer", step.answer)]
        for part, text in parts:
            if not text.strip():
                continue
            lead = ""
            if not at.part:
                lead = at.leads[part == "answer"]
            elif at.part == part:
                fed += self._goes_on(at)
            else:
                fed += self._ends(at, self._between)
            at = replace(at, part=part, tail=lead + text, settled=0)
        goes_on = self._goes_on(at)
        ends = self._ends(at, (self._between if at.part == "thought" else "") + self._closing)
        settled = next(
            (i for i, (a, b) in enumerate(zip(goes_on, ends, strict=False)) if a != b), min(len(goes_on), len(ends))
        )
        feed = (*fed, *ends)
        return Layout(feed, (len(feed) - 1,), len(fed) + settled), replace(at, settled=settled)

    def _goes_on(self, at: Reply) -> list[int]:
        """Ids of the last text that are not settled, where more of its part follows."""
        return encode(self.tokenizer, at.tail)[at.settled :]

    def _ends(self, at: Reply, following: str) -> list[int]:
        """The same where its part ends, and what follows."""
        text = at.tail.rstrip() if at.part == "thought" or self._trims else at.tail
        return encode(self.tokenizer, text + following)[at.settled :]


def bind(format: PRMFormat, tokenizer: Tokenizer, model: str, separator: str | None = None) -> Reader[Any]:
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
    if format.closing == "turn":
        if chosen or not isinstance(format.prompt, Chat):
            raise ConfigurationError(
                f"{model}: the format {format.name} is read at the end of the assistant's turn, which takes a chat and "
                "no separator"
            )
        return ReplyReader(format, tokenizer, model)
    return StepReader(format, tokenizer, model, chosen)


def _chat(before: Prompt) -> list[Message]:
    """A conversation whose assistant's turn is to be cut out."""
    return [*(before or (Message("user", "?"),)), Message("assistant", MARK)]


def _turns(style: Chat, prompt: Prompt) -> Prompt:
    """The turns before the response, as the model was trained with them."""
    if style.user != PROBLEM:
        prompt = (Message("user", style.user.replace(PROBLEM, problem(prompt))),)
    begins = begun(prompt)
    turns = tuple(m for m in prompt if m.role not in ("system", "tools") and m is not begins)
    return turns if style.system is None else (Message("system", style.system), *turns)


def _begun(style: Chat, root: Path) -> Shown:
    """What the prompt says of the response, where that is no part of the problem."""
    return shown_beginning(root) if style.user == PROBLEM else Shown()


def _thinking(name: str) -> Message:
    """A response whose thought and answer are to be cut out."""
    return Message("assistant", MARK, {name: MARK})
