"""From a format and a tokenizer to the ids that a reward model reads."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from rsd_core import ConfigurationError, Message, Path, Prompt, begun
from rsd_integrations.prm_formats.formats import PROBLEM, Chat, PRMFormat, Text, Turns, Words
from rsd_integrations.prm_formats.layouts import (
    MARK,
    Layout,
    Tokenizer,
    begin,
    encode,
    firm,
    follow,
    leading,
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

    @property
    def settles(self) -> bool:
        """Whether all that is read for a step stays, and comes before what is read for the next one."""
        return False

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


@dataclass(frozen=True, slots=True)
class Reading:
    """How far steps are read that follow each other in one text."""

    number: int = 0
    """Steps so far."""
    tail: str = ""
    """The last text that was read, where its tokens may change with what follows it; it is read again."""
    first: bool = False
    """Whether nothing comes before the tail."""
    carry: str = ""
    """White space after the end of the last step, which the next one begins with."""
    owed: bool = False
    """Whether the last step was written without its separator, and has been given one."""


class StepReader(Reader[Reading]):
    """Steps that follow each other in one text or one turn, each with its separator, those of a thought as others."""

    def __init__(self, format: PRMFormat, tokenizer: Tokenizer, model: str, separator: str) -> None:
        super().__init__(format, tokenizer, model)
        self._separator = separator
        self._mark = encode(tokenizer, separator)
        self._end = self._only_token(separator) if format.strict and separator else None
        if format.strict and format.apart and self._end is not None:
            self._mark = [self._end]
        self._apart = format.apart and bool(separator)
        self._splits = format.splits and separator.isspace()
        self._closing: tuple[int, ...] = ()
        self._trimmed: Callable[[str], str] = str
        """What the chat template leaves of the beginning of an answer."""
        if isinstance(format.prompt, Chat):
            self._trimmed = leading(lambda text: turn(tokenizer, conversation((), text), model))
        if format.closing == "eos":
            if tokenizer.eos_token_id is None:
                raise ConfigurationError(f"{model}: its tokenizer has no end-of-text token, which scores are read at")
            self._closing = (int(tokenizer.eos_token_id),)

    @property
    def settles(self) -> bool:
        return not self._closing and (self._apart or self._end is not None)

    def prompt(self, root: Path) -> tuple[list[int], Reading]:
        text, one_text = self._prompt(root), not self._apart or isinstance(self.format.prompt, Chat)
        firmly = firm(text) if one_text else len(text)
        return self._begin(text[:firmly]), Reading(tail=text[firmly:], first=not firmly)

    def step(self, step: Shown, at: Reading) -> tuple[Layout, Reading]:
        text, carry, owed = self._own(step, at)
        number = at.number + 1
        lead = self.format.lead[number > 1].replace("{i}", str(number))
        if not self._separator:
            lead = step.gap + lead
        if re.match(r"Step \d+\s*[:.]", text) and "{i}" in self.format.lead[1]:  # the step is numbered already
            lead = lead.partition("Step")[0]
        after = Reading(number, carry=carry, owed=owed)
        if self._apart:
            pieces = text.split(self._separator) if self._splits else [text]
            ids = self._ids(at, lead + pieces[0]) if at.tail else encode(self.tokenizer, lead + pieces[0])
            for piece in pieces[1:]:
                ids += [*self._mark, *encode(self.tokenizer, piece)]
            ids, kept = [*ids, *self._mark], None
        else:
            whole = at.tail + lead + text + self._separator
            ids = self._ids(at, lead + text + self._separator)
            kept, firmly = self._firm(whole, at, ids)
            after = replace(after, tail=whole[firmly:], first=at.first and not firmly)
        if self._end is not None and ids[-1] != self._end:
            raise ConfigurationError(
                f"{self.model}: its tokenizer joins the separator {self._separator!r} with the step {text[-40:]!r}, so "
                "its score cannot be read. Use the tokenizer that was published with the reward model."
            )
        feed = (*ids, *self._closing)
        return Layout(feed, (len(feed) - 1,), len(ids) if kept is None else kept), after

    def _prompt(self, root: Path) -> str:
        style = self.format.prompt
        if isinstance(style, Chat):
            return (
                turn(self.tokenizer, conversation(turns_before(style, root.prompt)), self.model)[0]
                + begun_response(style, root).text
            )
        assert isinstance(style, Text)
        asked = problem(root.prompt)
        text = style.template.replace(PROBLEM, asked.strip() if self.format.strip == "all" else asked)
        return text.replace("{bos}", self.tokenizer.bos_token or "") if "{bos}" in text else text

    def _begin(self, text: str) -> list[int]:
        """Ids of a text at the very beginning."""
        style = self.format.prompt
        plain = isinstance(style, Text) and "{bos}" not in style.template
        return begin(self.tokenizer, text) if plain else encode(self.tokenizer, text)

    def _ids(self, at: Reading, text: str) -> list[int]:
        """Ids of a text after what is kept, with those of the tail before it."""
        if at.first:
            return self._begin(at.tail + text)[len(self._begin("")) :]
        text = at.tail + text
        # What really comes before is not needed, only a text of its kind: a letter, where white space divides it from
        # this one, or a line's end.
        return follow(self.tokenizer, text, "a" if text[:1].isspace() else "\n", self.model)

    def _firm(self, whole: str, at: Reading, ids: list[int]) -> tuple[int, int]:
        """How many of the ids of a text stay as they are, whatever follows, and how long their text is."""
        if self._end is not None:  # the next step begins anew after the separator's own token
            return len(ids), len(whole)
        firmly = firm(whole)
        kept = self._ids(replace(at, tail=""), whole[:firmly]) if firmly else []
        return (len(kept), firmly) if ids[: len(kept)] == kept else (0, 0)

    def _own(self, step: Shown, at: Reading) -> tuple[str, str, bool]:
        """A step without its separator, the white space after that, and whether the separator is owed."""
        form, text = self.format, at.carry + step.text
        if form.strip:
            return self._one(text.strip()), "", False
        if not self._separator:
            return self._trimmed(text) if not at.number else text, "", False
        written = len(text.rstrip())
        ends = (re.escape(self._separator),) if self._splits else _ENDS
        end = next((found for end in ends if (found := re.search(end, text[written:]))), None)
        own, carry = (text, "") if end is None else (text[: written + end.start()], text[written + end.end() :])
        if not self._splits and (form.apart or form.strict):
            own = _BLANK.sub("", own)  # a step of nothing but white space is none
        elif at.owed:
            own = own.removeprefix(self._separator)
        if not at.number:
            own = self._trimmed(own)
        return self._one(own), carry, end is None

    def _one(self, text: str) -> str:
        """A step without separators inside: the model knows one per step. One of plain letters may be a word's."""
        if self._end is None or self.format.choose_separator or self._separator.strip().isalpha():
            return text
        return text.replace(self._separator, " ")

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


_ENDS = (r"\n\n", r"\r?\n\r\n", r"\r?\n")
"""What ends a step, of the white space after it: a blank line, or else the end of its line."""
_BLANK = re.compile(r"\A(?:\s*?\n\n)+")
"""Blank steps before a step, as they are where a text is cut at every blank line."""


class TurnReader(Reader[Reading]):
    """Each step is a turn of the user's, judged by the assistant's next word.

    The word that is fed back is always the one for a right step, as in the reference, so that what was read of a path
    never changes.
    """

    def __init__(self, format: PRMFormat, tokenizer: Tokenizer, model: str) -> None:
        super().__init__(format, tokenizer, model)
        shown = turn(tokenizer, [*conversation(()), Message("user", MARK), Message("assistant", MARK)], model)
        assert isinstance(format.prompt, Turns)
        self._judge = format.prompt.ask + shown[2]
        """From the end of a step to the place of the judgement."""
        word = self.words()
        assert word is not None
        self._next = [word[0], *encode(tokenizer, shown[1])]
        """From a judgement to the next step."""

    def prompt(self, root: Path) -> tuple[list[int], Reading]:
        """The first turn up to the step in it."""
        asked = f"{problem(root.prompt)} {MARK}"
        text = turn(self.tokenizer, [Message("user", asked), Message("assistant", MARK)], self.model)[0]
        firmly = firm(text)
        return encode(self.tokenizer, text[:firmly]), Reading(tail=text[firmly:], first=not firmly)

    def step(self, step: Shown, at: Reading) -> tuple[Layout, Reading]:
        text = at.tail + step.text.strip() + self._judge
        after = "" if at.first else "a" if text[:1].isspace() else "\n"
        ids = [*(self._next if at.number else []), *follow(self.tokenizer, text, after, self.model)]
        return Layout(tuple(ids), (len(ids) - 1,)), Reading(at.number + 1)


def conversation(before: Sequence[Message], answer: str = MARK) -> list[Message]:
    """A conversation whose assistant's turn is to be cut out."""
    return [*(before or (Message("user", "?"),)), Message("assistant", answer)]


def turns_before(style: Chat, prompt: Prompt) -> Prompt:
    """The turns before the response, as the model was trained with them."""
    if style.user != PROBLEM:
        prompt = (Message("user", style.user.replace(PROBLEM, problem(prompt))),)
    begins = begun(prompt)
    turns = tuple(m for m in prompt if m.role not in ("system", "tools") and m is not begins)
    return turns if style.system is None else (Message("system", style.system), *turns)


def begun_response(style: Chat, root: Path) -> Shown:
    """What the prompt says of the response, where that is no part of the problem."""
    return shown_beginning(root) if style.user == PROBLEM else Shown()
