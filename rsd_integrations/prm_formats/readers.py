"""Turns text into the ids that a reward model reads, given a format and a tokenizer."""

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
"""A reader's position in a response; compares by value."""


class Reader(ABC, Generic[At]):
    """What one reward model reads, without thought markers.

    What is kept of a prompt or a step never depends on what follows it.
    """

    def __init__(self, format: PRMFormat, tokenizer: Tokenizer, model: str) -> None:
        self.format, self.model, self.tokenizer = format, model, tokenizer

    @property
    def settles(self) -> bool:
        """Whether everything read for a step is kept, and precedes what is read for the next one."""
        return False

    @abstractmethod
    def prompt(self, root: Path) -> tuple[list[int], At]:
        """Ids before the first step."""

    @abstractmethod
    def step(self, step: Shown, at: At) -> tuple[Layout, At]:
        """A non-blank step. The score is read at its last fed token."""

    def words(self) -> tuple[int, int] | None:
        """Ids of the words for right and wrong, if the language model's own head judges."""
        for head in self.format.heads:
            if isinstance(head, Words):
                right, wrong = (one_token(self.tokenizer, word, self.model) for word in (head.right, head.wrong))
                return right, wrong
        return None


@dataclass(frozen=True, slots=True)
class Reading:
    """The position among steps that follow each other in one text."""

    number: int = 0
    """Steps so far."""
    tail: str = ""
    """The last text read, if its tokens may change with what follows; it is read again."""
    first: bool = False
    """Whether nothing comes before the tail."""
    carry: str = ""
    """White space after the end of the last step, with which the next one begins."""
    owed: bool = False
    """Whether the last step was written without its separator, so that one was added."""


class StepReader(Reader[Reading]):
    """Steps that follow each other in one text or turn, each with its separator, including those of a thought."""

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
        """How the chat template strips the beginning of an answer."""
        if isinstance(format.prompt, Chat):
            self._trimmed = leading(lambda text: turn(tokenizer, conversation((), text), model))
        if format.closing == "eos":
            if tokenizer.eos_token_id is None:
                raise ConfigurationError(f"{model}: its tokenizer has no end-of-text token, at which scores are read")
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
        if re.match(r"Step \d+\s*[:.]", text) and "{i}" in self.format.lead[1]:  # the step is already numbered
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
                f"{self.model}: its tokenizer merges the separator {self._separator!r} with the step {text[-40:]!r}, "
                "so its score cannot be read. Use the tokenizer that was published with the reward model."
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
        """Ids of a text after the kept ids, including those of the tail before it."""
        if at.first:
            return self._begin(at.tail + text)[len(self._begin("")) :]
        text = at.tail + text
        # The actual previous text is not needed, only one of its kind: a letter, if white space separates them, or a
        # line end.
        return follow(self.tokenizer, text, "a" if text[:1].isspace() else "\n", self.model)

    def _firm(self, whole: str, at: Reading, ids: list[int]) -> tuple[int, int]:
        """How many ids of a text stay the same whatever follows, and the length of their text."""
        if self._end is not None:  # the next step starts fresh after the separator's own token
            return len(ids), len(whole)
        firmly = firm(whole)
        kept = self._ids(replace(at, tail=""), whole[:firmly]) if firmly else []
        return (len(kept), firmly) if ids[: len(kept)] == kept else (0, 0)

    def _own(self, step: Shown, at: Reading) -> tuple[str, str, bool]:
        """A step without its separator, the white space after that, and whether a separator must be added."""
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
            own = _BLANK.sub("", own)  # a white-space step does not count
        elif at.owed:
            own = own.removeprefix(self._separator)
        if not at.number:
            own = self._trimmed(own)
        return self._one(own), carry, end is None

    def _one(self, text: str) -> str:
        """A step without separators inside: the model expects one per step. One of letters may be part of a word."""
        if self._end is None or self.format.choose_separator or self._separator.strip().isalpha():
            return text
        return text.replace(self._separator, " ")

    def _only_token(self, separator: str) -> int:
        """The last id of the separator. White space before it may be a separate token."""
        for text in (separator, separator.strip(" "), separator.strip()):
            ids = (
                follow(self.tokenizer, text, "a", self.model) if not self.format.apart else encode(self.tokenizer, text)
            )
            if len(ids) == 1:
                return ids[0]
        raise ConfigurationError(
            f"{self.model}: its tokenizer has no token {separator!r}, at which the format {self.format.name} reads "
            "scores. Use the tokenizer that was published with the reward model, or name the format or separator it "
            "has."
        )


_ENDS = (r"\n\n", r"\r?\n\r\n", r"\r?\n")
"""The white space after a step that still belongs to it: up to a blank line, or else the end of its line."""
_BLANK = re.compile(r"\A(?:\s*?\n\n)+")
"""Blank steps before a step, as they occur if a text is cut at every blank line."""


class TurnReader(Reader[Reading]):
    """Each step is a user turn, judged by the assistant's next word.

    The word fed back is always the one for a right step, as in the reference, so that the input for a path never
    changes.
    """

    def __init__(self, format: PRMFormat, tokenizer: Tokenizer, model: str) -> None:
        super().__init__(format, tokenizer, model)
        shown = turn(tokenizer, [*conversation(()), Message("user", MARK), Message("assistant", MARK)], model)
        assert isinstance(format.prompt, Turns)
        self._judge = format.prompt.ask + shown[2]
        """Text from the end of a step to the judgement."""
        word = self.words()
        assert word is not None
        self._next = [word[0], *encode(tokenizer, shown[1])]
        """Text from a judgement to the next step."""

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
    """A conversation with a placeholder assistant turn."""
    return [*(before or (Message("user", "?"),)), Message("assistant", answer)]


def turns_before(style: Chat, prompt: Prompt) -> Prompt:
    """The turns before the response, as the model was trained with them."""
    if style.user != PROBLEM:
        prompt = (Message("user", style.user.replace(PROBLEM, problem(prompt))),)
    begins = begun(prompt)
    turns = tuple(m for m in prompt if m.role not in ("system", "tools") and m is not begins)
    return turns if style.system is None else (Message("system", style.system), *turns)


def begun_response(style: Chat, root: Path) -> Shown:
    """The part of the response in the prompt, which is not part of the problem."""
    return shown_beginning(root) if style.user == PROBLEM else Shown()
