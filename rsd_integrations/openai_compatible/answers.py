"""From what a server sends to a step: where it ends, why, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rsd_core import ConfigurationError, RunError
from rsd_core.paths import Ending
from rsd_integrations.openai_compatible.charges import TokenCounts, token_counts
from rsd_integrations.openai_compatible.profiles import Profile
from rsd_integrations.openai_compatible.streams import NoIdsError


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server wrote."""

    text: str
    ending: Ending
    ids: tuple[int, ...] = ()
    """The sampled ids, an end-of-answer token included; empty where the server does not tell them."""
    logprobs: tuple[float, ...] = ()
    """Of the ids, where they were asked for."""
    read: int | None = None
    """Tokens of the prompt, in the server's count; None where it tells none."""
    cached: int = 0
    """Those of them that it found in a cache."""
    wrote: int | None = None
    """Tokens generated, in the server's count."""


def read_answer(body: Mapping[str, Any], delimiter: str | None, profile: Profile) -> Answer:
    """The answer in the body of a response.

    Raises:
        RunError: It has no finish reason, or one that is no end of a step.
    """
    (choice,) = body["choices"]
    text = _text(choice)
    ending = _ending(choice, delimiter, profile)
    if ending == "end" and delimiter is not None and profile.stop != "kept":
        text, ended = first_step(text, delimiter)
        ending = "delimiter" if ended else "end"
    elif ending == "delimiter" and delimiter is not None and not text.endswith(delimiter):
        text += delimiter  # it named the stop string and stripped it all the same
    logprobs = choice.get("logprobs") or {}
    return Answer(
        text,
        ending,
        tuple(choice.get("token_ids") or ()),
        tuple(logprobs.get("token_logprobs") or ()),
        **token_counts(body),
    )


def received(body: Mapping[str, Any]) -> Answer:
    """What was paid for in a body that holds no answer: its text and its counts, as far as it tells them."""
    text, counts = "", TokenCounts()
    with suppress(LookupError, TypeError, ValueError, AttributeError):
        counts = token_counts(body)
    with suppress(LookupError, TypeError, ValueError, AttributeError):
        text = "".join(_text(choice) for choice in body["choices"])
    return Answer(text, "length", **counts)


class StreamedStep:
    """Takes the events of a stream until the step is over, or the answer."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._text = ""
        self._ending: Ending | None = None
        self._counts = TokenCounts()

    def take(self, event: Mapping[str, Any]) -> bool:
        """Take an event; True when the step has ended by its delimiter and the rest is not wanted."""
        if event.get("usage"):
            self._counts = token_counts(event)
        for choice in event["choices"]:
            self._text += _text(choice)
            self._text, ended = first_step(self._text, self._delimiter)
            if ended:  # newlines of the same event are kept; those that follow begin the next step
                self._ending, self._counts = "delimiter", TokenCounts()
                return True
            if choice.get("finish_reason") is not None:
                self._ending = _reason(choice)
        return False

    @property
    def complete(self) -> bool:
        """Whether the stream may end here."""
        return self._ending is not None

    @property
    def answer(self) -> Answer:
        """What was written, or what was received of it where it is not complete."""
        return Answer(self._text, self._ending or "length", **self._counts)


class StreamedSteps:
    """Takes the events of a stream that tells ids, and cuts it into steps.

    Args:
        delimiter: What a step ends after, with the rest of the token that completes it.
        pieces: The bytes of every id.
        most: Cap of one step, in tokens.
        put: Takes each step; True when no more is wanted.
    """

    def __init__(self, delimiter: str, pieces: Sequence[bytes], most: int, put: Callable[[Answer], bool]) -> None:
        self._mark, self._pieces, self._most, self._put = delimiter.encode(), pieces, most, put
        self.started = False
        """Whether the server has sent anything."""
        self.unfinished: list[int] = []
        """Ids of the step that is being written."""
        self._logprobs: list[float] = []
        self._written = b""
        self._text: str | None = ""
        """What the server calls the first step; None beyond it."""
        self.read: int | None = None
        """Tokens of the prompt, in the server's count; None where it tells none."""
        self.complete = False
        """Whether the stream may end here."""

    def take(self, event: Mapping[str, Any]) -> bool:
        """Take an event; True when no more is wanted.

        Raises:
            NoIdsError: It has text and no ids.
            ConfigurationError: It has ids of another vocabulary.
        """
        enough, self.started = False, True
        for choice in event["choices"]:
            ids, logprobs = choice.get("token_ids") or (), choice.get("logprobs") or {}
            ended = None if choice.get("finish_reason") is None else _reason(choice)
            self._text = None if self._text is None else self._text + _text(choice)
            self._logprobs += logprobs.get("token_logprobs") or ()
            if choice.get("prompt_token_ids"):
                self.read = len(choice["prompt_token_ids"])
            if _text(choice) and not (ids or self.unfinished):
                raise NoIdsError("the server streams text without the ids of its tokens")
            for position, id_ in enumerate(ids, 1):
                if id_ >= len(self._pieces):
                    raise ConfigurationError(f"the server wrote the token {id_}, which is not in the tokenizer given")
                self.unfinished.append(id_)
                self._written += self._pieces[id_]
                if self._mark in self._written:
                    enough = self._cut("delimiter", position == len(ids))
                elif len(self.unfinished) == self._most and not (ended == "end" and position == len(ids)):
                    enough = self._cut("length", position == len(ids))
            # A cap of the server's own may be above that of a step: what it cut in the middle is written anew.
            if ended == "end" or (ended and self.unfinished and self._text is not None):
                self._cut(ended, True)
            self.complete = ended is not None
        return enough

    def _cut(self, ending: Ending, at_end: bool) -> bool:
        """End a step; the server's text of the first one is that step's where no more tokens came with it."""
        ids, self.unfinished, self._written = tuple(self.unfinished), [], b""
        logprobs, self._logprobs = tuple(self._logprobs[: len(ids)]), self._logprobs[len(ids) :]
        text, self._text = self._text if at_end and self._text else "", None
        return self._put(Answer(text, ending, ids, logprobs, wrote=len(ids)))


def first_step(text: str, delimiter: str) -> tuple[str, bool]:
    """The text up to the end of its first step, newlines after the delimiter included; whether there is one."""
    start = text.find(delimiter)
    if start < 0:
        return text, False
    end = start + len(delimiter)
    while text[end : end + 1] == "\n":
        end += 1
    return text[:end], True


def _text(choice: Mapping[str, Any]) -> str:
    """The text of a choice of any of the four shapes: of completions or chats, whole or streamed."""
    if "text" in choice:
        text = choice["text"]
    else:
        text = (choice["delta"] if "delta" in choice else choice["message"]).get("content")
    if not isinstance(text, str | None):
        raise TypeError(f"the text is {type(text).__name__}")
    return text or ""


def _reason(choice: Mapping[str, Any]) -> Ending:
    """What a finish reason means. Of what is neither an end nor a length, no step can be made."""
    reason = choice.get("finish_reason")
    if reason is None:
        raise RunError("the answer has no finish reason: it was cut short")
    if reason not in ("stop", "length"):
        raise RunError(f"the server gave up: its finish reason is {reason!r}")
    return "length" if reason == "length" else "end"


def _ending(choice: Mapping[str, Any], delimiter: str | None, profile: Profile) -> Ending:
    ending = _reason(choice)
    named = profile.reason is not None and choice.get(profile.reason) == delimiter is not None
    return "delimiter" if ending == "end" and named else ending
