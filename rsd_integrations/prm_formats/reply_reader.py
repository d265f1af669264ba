"""The input of an outcome model: the conversation with the whole response as its last, finished turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from rsd_core import Message, Path, PromptError
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.prm_formats.formats import Chat, PRMFormat
from rsd_integrations.prm_formats.layouts import (
    MARK,
    REASONING,
    Layout,
    Tokenizer,
    encode,
    firm,
    follow,
    leading,
    trailing,
    turn,
)
from rsd_integrations.prm_formats.readers import Reader, begun_response, conversation, turns_before
from rsd_integrations.prm_formats.shown import Shown

Part = Literal["thought", "answer"]
Show = Callable[[str, str], Message]
"""Builds a message from thought and answer."""
_ASKED = Message("user", "?")


@dataclass(frozen=True, slots=True)
class Reply:
    """The position in the assistant's turn."""

    leads: tuple[str, str]
    """What the template writes before a thought, and before an answer without a thought."""
    tail: str = ""
    """The last text read, if its tokens may change with what follows; it is read again."""
    first: bool = False
    """Whether nothing comes before the tail."""
    part: Literal["", "thought", "answer"] = ""
    """The part of the response read last."""
    ended: bool = False
    """Whether a thought read last has ended."""


class ReplyReader(Reader[Reply]):
    """The conversation as the chat template renders it, with all of the response so far as its last, finished turn.

    The thought goes where the template puts it; otherwise it is part of the text before the answer.
    """

    def __init__(self, format: PRMFormat, tokenizer: Tokenizer, model: str) -> None:
        super().__init__(format, tokenizer, model)
        assert isinstance(format.prompt, Chat)
        self._style = format.prompt
        self._closing = self._turn(Message("assistant", MARK))[-1]
        """What follows a response."""
        self._show = self._shows_thoughts()
        self._between = self._unanswered = ""
        """What comes between thought and answer, and what follows a thought without an answer."""
        if self._show is not None:
            _, self._between, self._closing = self._turn(self._show(MARK, MARK))
            alone = self._turn(self._show(MARK, ""))
            self._unanswered = alone[1] if len(alone) == 2 else self._between + self._closing

        def answer(text: str) -> list[str]:
            return self._turn(Message("assistant", text))

        # White space around a thought belongs to its markers.
        self._leading = {"thought": str.lstrip, "answer": leading(answer)}
        self._trailing = {"thought": str.rstrip, "answer": trailing(answer)}

    def prompt(self, root: Path) -> tuple[list[int], Reply]:
        """Ids of the turns before the response. How the response begins depends on whether it has a thought."""
        turns = turns_before(self._style, root.prompt) or (_ASKED,)
        before = turn(self.tokenizer, turns, self.model)[0]
        answer = turn(self.tokenizer, conversation(turns), self.model)[0]
        shown = None if self._show is None else self._show(MARK, MARK)
        thought = answer if shown is None else turn(self.tokenizer, [*turns, shown], self.model)[0]
        if not (answer.startswith(before) and thought.startswith(before)):
            before = ""
        firmly = firm(before)
        leads = (thought.removeprefix(before), answer.removeprefix(before))
        ids, at = encode(self.tokenizer, before[:firmly]), Reply(leads, before[firmly:], not firmly)
        own = begun_response(self._style, root)
        if own:
            layout, at = self.step(own, at)
            ids += layout.kept
        return ids, at

    def step(self, step: Shown, at: Reply) -> tuple[Layout, Reply]:
        text, last = at.tail, at.part
        for part, more in self._parts(step, at):
            if not last:
                text += at.leads[part == "answer"] + self._leading[part](more)
            elif last == part:
                text += more
            else:
                text = self._trailing[last](text) + self._between + self._leading[part](more)
            last = part
        assert last
        ended = self._trailing[last](text) + (self._unanswered if last == "thought" else self._closing)
        feed = self._ids(at, ended)
        firmly = firm(text)
        kept = self._ids(at, text[:firmly]) if firmly else []
        if feed[: len(kept)] != kept:
            kept, firmly = [], 0
        after = replace(at, tail=text[firmly:], first=at.first and not firmly, part=last, ended=step.ended)
        return Layout(tuple(feed), (len(feed) - 1,), len(kept)), after

    def _parts(self, step: Shown, at: Reply) -> Iterator[tuple[Part, str]]:
        """The non-blank thought and answer in a step."""
        parts: list[tuple[Part, str]] = [("answer", step.gap + step.text)]
        if self._show is not None:
            gap = step.gap or ("\n\n" if at.ended else "")
            thought = gap + step.thought if at.part == "thought" and step.thought.strip() else step.thought
            parts = [("thought", thought), ("answer", step.answer)]
        return ((part, text) for part, text in parts if text.strip())

    def _ids(self, at: Reply, text: str) -> list[int]:
        """Ids of a text after the kept ids; it begins with the tail."""
        after = "" if at.first else "a" if text[:1].isspace() else "\n"
        return follow(self.tokenizer, text, after, self.model)

    def _turn(self, message: Message) -> list[str]:
        return turn(self.tokenizer, [_ASKED, message], self.model)

    def _shows_thoughts(self) -> Show | None:
        """How to pass the template a thought so that it appears once; None if it has no place for one."""
        before = turn(self.tokenizer, [_ASKED], self.model)[0]
        for show in _ways(str(self.tokenizer.chat_template), self._closing):
            try:
                parts = self._turn(show(MARK, MARK))
            except PromptError:  # the template drops the thought
                continue
            if len(parts) == 3 and _is_marked_once(parts[0].removeprefix(before), parts[1]):
                return show
        return None


def _ways(template: str, closing: str) -> Iterator[Show]:
    """Ways to pass a thought to a template: a separate field, or the content with the markers it knows."""
    for name in REASONING:
        yield lambda thought, answer, name=name: Message("assistant", answer, {name: thought})  # type: ignore[misc]
    for markers in sorted(MARKERS.values(), key=lambda markers: not markers.answer):  # those with more marks first
        ends_turns = markers.close in closing and markers.open.strip() not in template
        if not ends_turns and all(mark in template for mark in (markers.close, markers.answer.strip())):
            yield lambda thought, answer, markers=markers: Message("assistant", markers.wrap(thought) + answer)  # type: ignore[misc]
            # A template that opens every thought itself, as it does for the model.
            yield lambda thought, answer, end=markers.ending: Message("assistant", thought + end + answer)  # type: ignore[misc]


def _is_marked_once(begin: str, between: str) -> bool:
    """Whether the thought is opened only once, not closed before it begins, and not put into the answer."""
    return not any(
        one.close in begin or (one.answer and one.answer in begin) or (begin + between).count(one.open.strip()) > 1
        for one in MARKERS.values()
    )
