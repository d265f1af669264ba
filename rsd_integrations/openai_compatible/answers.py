"""Turns what a server sends into a step: where it ends, why, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rsd_core import ConfigurationError
from rsd_core.paths import Ending
from rsd_core.splitting import Splitter
from rsd_core.thoughts.markers import Markers
from rsd_integrations.openai_compatible.called import called
from rsd_integrations.openai_compatible.charges import TokenCounts, token_counts
from rsd_integrations.openai_compatible.finish_reasons import FinishReasons
from rsd_integrations.openai_compatible.profile import Profile
from rsd_integrations.openai_compatible.streams import NoIdsError
from rsd_integrations.openai_compatible.written import THINK, Written, WrittenIds, cut_at, ids_in, logprobs_in, sizes_in

if TYPE_CHECKING:
    from rsd_integrations.inprocess.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server wrote."""

    text: str
    """Raw text, with thought markers even if the server separated the thought."""
    ending: Ending
    ids: tuple[int, ...] = ()
    """The sampled ids, including an end-of-answer token; empty if the server does not report them."""
    logprobs: tuple[float, ...] = ()
    """Log-probabilities of the ids, if requested; without ids, of the text's tokens."""
    read: int | None = None
    """Tokens of the prompt, in the server's count; None if it reports none."""
    cached: int = 0
    """Those of them that it found in a cache."""
    wrote: int | None = None
    """Tokens generated, in the server's count."""
    dropped: int = 0
    """Generated tokens after the end of the step."""
    goes_on: bool = False
    """Whether the server stopped at a stop string that does not end the step."""
    native: Mapping[str, Any] | None = None
    """The whole message, if it calls tools."""
    before: bytes = b""
    """The beginning of its first character, at the end of the preceding ids."""


class StepReader:
    """Consumes the events of a stream, or a whole body as one event, until the step or the answer ends.

    Args:
        profile: The server's.
        splitter: What ends a step; None reads the whole answer.
        vocabulary: The vocabulary of the ids, if known.
        before: The part of the step written before.
        begun: Text that a chat continues, and may repeat.
        markers: The markers around the thoughts of this response.
        reasons: The server's finish reasons.
        asked: Whether the server was asked to stop at the splitter's stop strings, and is known to keep or name them.
        character: The beginning of the first character, at the end of the preceding ids.
    """

    def __init__(
        self,
        profile: Profile,
        splitter: Splitter | None = None,
        vocabulary: Vocabulary | None = None,
        before: str = "",
        begun: str = "",
        markers: Markers = THINK,
        reasons: FinishReasons | None = None,
        asked: bool = False,
        character: bytes = b"",
    ) -> None:
        self._profile, self._splitter, self._before = profile, splitter, before
        self._reasons, self._asked = reasons or FinishReasons(), asked
        self._written = Written(profile, begun, markers)
        self._ids = None if vocabulary is None else WrittenIds(vocabulary, character)
        self._logprobs: list[float] = []
        self._sizes: list[int] = []
        self._ending: Ending | None = None
        self._end: int | None = None
        self._stop: object = None
        self._counts = TokenCounts()
        self._counted = False
        """Whether the counts cover everything received."""

    def take(self, event: Mapping[str, Any]) -> bool:
        """Process an event; True when the step has ended and the rest is not needed.

        Raises:
            RunError: The server gave up.
            ConfigurationError: It has ids of another vocabulary, or ended for a reason that cannot end a step.
        """
        length = self._written.length
        for choice in event.get("choices") or ():
            self._written.add(choice)
            self._logprobs += logprobs_in(choice)
            self._sizes += sizes_in(choice)
            if self._ids is not None:
                self._ids.add(ids_in(choice))
            ending = self._reasons.ending(choice)
            if ending is not None:
                self._ending = ending
                self._stop = None if self._profile.reason is None else choice.get(self._profile.reason)
            if self._splitter is not None:
                self._end = self._splitter.end(self._before + self._text())
                if self._end is not None:
                    break
        if counts := token_counts(event):  # some send them with every event, some twice, some with an empty one
            self._counts |= counts
            self._counted = True
        elif self._written.length > length:
            self._counted = False
        if self._ids is not None and self._ids.ids and self.complete:
            self._ids.check(self._written.text())
        return self._end is not None

    @property
    def complete(self) -> bool:
        """Whether the stream may end here."""
        return self._ending is not None or self._end is not None

    def end(self) -> None:
        """The server has ended the stream.

        Raises:
            RunError: It gave no finish reason.
            ConfigurationError: It never gives one.
        """
        if not self.complete:
            self._reasons.missing()

    @property
    def answer(self) -> Answer:
        """What was written, or what was received of it if incomplete."""
        ids = self._ids.ids if self._ids is not None else []
        text, end, splitter = self._text(), self._end, self._splitter
        stops = () if splitter is None or self._ending != "end" else splitter.stops
        named = self._stop in stops
        if end is None and named and text and not ids and splitter is not None:
            text += str(self._stop)  # the server named the stop string but stripped it
            end = splitter.end(self._before + text)
        # Nothing is written after a stop string: a text that contains one was ended by it, named or not.
        stopped = named or (self._asked and any(stop in text for stop in stops))
        ending, dropped = self._ending or "length", 0
        if end is None:
            ending = "delimiter" if stopped else ending
        else:
            ending, own = "delimiter", max(0, end - len(self._before))
            if not ids or self._ids is None:
                text = cut_at(text, own)
            else:
                count = self._ids.count(own)
                ids, dropped = ids[:count], len(ids) - count
        logprobs = tuple(self._logprobs) if ids or not self._logprobs else self._logprobs_of(text)
        counts = self._counts if self._counted else self._prompt_counts()
        goes_on = stopped and end is None
        before = self._ids.before if self._ids is not None else b""
        return Answer(text, ending, tuple(ids), logprobs, **counts, dropped=dropped, goes_on=goes_on, before=before)

    def _logprobs_of(self, text: str) -> tuple[float, ...]:
        """The log-probabilities of the first tokens, which form a text, without that of an end-of-answer token."""
        left, count = len(text.encode()), 0
        while left > 0 and count < len(self._sizes):
            left -= self._sizes[count]
            count += 1
        return tuple(self._logprobs[:count])

    def _prompt_counts(self) -> TokenCounts:
        """The prompt counts in early events; their answer counts are incomplete."""
        early = self._counts
        return {"read": early["read"], "cached": early.get("cached", 0)} if "read" in early else {}

    def _text(self) -> str:
        """The text in which steps are cut: that of the ids, if reported."""
        if self._ids is not None and self._ids.ids:
            return self._ids.text
        return self._written.text(complete=self._ending is not None)


def read_answer(
    body: Mapping[str, Any],
    splitter: Splitter | None,
    profile: Profile,
    vocabulary: Vocabulary | None = None,
    before: str = "",
    begun: str = "",
    markers: Markers = THINK,
    reasons: FinishReasons | None = None,
    turn: bool = False,
    character: bytes = b"",
) -> Answer:
    """The answer in the body of a response; arguments as in `StepReader`. Its stop strings were requested.

    `turn` means that a whole turn was requested, which may be a tool call.

    Raises:
        RunError: It has no finish reason, or the server gave up.
        ConfigurationError: It ended for a reason that cannot end a step, has no finish reason at all, or contains
            several answers.
    """
    choices = body["choices"]
    if isinstance(choices, list) and len(choices) > 1:
        raise ConfigurationError(
            f"the server returned {len(choices)} answers to one question: a gateway took each message for a separate "
            "prompt. Its route is for completions: give a tokenizer=…, or configure it for chats"
        )
    (choice,) = choices
    reasons = reasons or FinishReasons()
    if not choice.get("finish_reason"):
        reasons.missing()
    calls = called(choice, profile, markers) if turn else None
    reader = StepReader(profile, splitter, vocabulary, before, begun, markers, reasons, True, character)
    reader.take(body if calls is None else {**body, "choices": [calls.choice]})
    return reader.answer if calls is None else replace(reader.answer, native=calls.message)


def received(body: Mapping[str, Any]) -> Answer:
    """What was paid for in a body without an answer: its text and its counts, as far as reported."""
    written, counts = Written(), TokenCounts()
    with suppress(LookupError, TypeError, ValueError, AttributeError):
        counts = token_counts(body)
    with suppress(LookupError, TypeError, ValueError, AttributeError):
        for choice in body["choices"]:
            written.add(choice)
    return Answer(written.text(), "length", **counts)


class StreamedSteps:
    """Consumes the events of a stream with ids, and cuts it into steps.

    Args:
        splitter: What ends a step, including the rest of the token that completes it.
        vocabulary: The vocabulary of the ids.
        most: Maximum length of a step, in tokens.
        put: Receives each step; returns True when no more is needed.
        reasons: The server's finish reasons.
        character: See `StepReader`.
    """

    def __init__(
        self,
        splitter: Splitter,
        vocabulary: Vocabulary,
        most: int,
        put: Callable[[Answer], bool],
        reasons: FinishReasons | None = None,
        character: bytes = b"",
    ) -> None:
        self._splitter, self._most, self._put = splitter, most, put
        self._reasons = reasons or FinishReasons()
        self.started = False
        """Whether the server has sent anything."""
        self._ids = WrittenIds(vocabulary, character)
        self._logprobs: list[float] = []
        self._first: WrittenIds | None = WrittenIds(vocabulary, character)
        self._told = Written()
        """The server's text of the first step; later ones are not compared."""
        self.read: int | None = None
        """Tokens of the prompt, in the server's count; None if it reports none."""
        self.cached = 0
        """Those of them that it found in a cache."""
        self.complete = False
        """Whether the stream may end here."""

    @property
    def unfinished(self) -> list[int]:
        """Ids of the step being written."""
        return self._ids.ids

    def take(self, event: Mapping[str, Any]) -> bool:
        """Process an event; True when no more is needed.

        Raises:
            NoIdsError: It has text but no ids.
            ConfigurationError: It has ids of another vocabulary.
        """
        enough, self.started = False, True
        if "read" in (counts := token_counts(event)):
            self.read, self.cached = counts["read"], counts["cached"]
        for choice in event.get("choices") or ():
            ids = ids_in(choice)
            ended = self._reasons.ending(choice)
            text = Written()
            text.add(choice)
            self._logprobs += logprobs_in(choice)
            if choice.get("prompt_token_ids"):
                self.read = len(choice["prompt_token_ids"])
            if text.text() and not (ids or self.unfinished):
                raise NoIdsError("the server streams text without token ids")
            if self._first is not None:
                self._told.add(choice)
                self._first.add(ids)
                self._first.check(self._told.text())
            for position, id_ in enumerate(ids, 1):
                self._ids.add((id_,))
                last = position == len(ids) and ended == "end"
                while (end := self._splitter.end(self._ids.text)) is not None:
                    enough = self._cut("delimiter", self._ids.count(end)) or enough
                if len(self.unfinished) >= self._most and not last:
                    enough = self._cut("length", len(self.unfinished)) or enough
            # The server's cap may be above that of a step: a step cut in the middle is rewritten.
            if ended == "end" or (ended and self.unfinished and self._first is not None):
                enough = self._cut(ended, len(self.unfinished)) or enough
            self.complete = ended is not None
        return enough

    def end(self) -> None:
        """Like `StepReader.end`."""
        if not self.complete:
            self._reasons.missing()

    def _cut(self, ending: Ending, count: int) -> bool:
        """End a step after this many ids."""
        ids, logprobs = tuple(self.unfinished[:count]), tuple(self._logprobs[:count])
        self._first = None
        rest, self._logprobs = self.unfinished[count:], self._logprobs[count:]
        before = self._ids.before
        self._ids.restart(rest, self._ids.begun(count))
        return self._put(Answer("", ending, ids, logprobs, wrote=len(ids), before=before))
