"""Where a response is cut into steps: splitters as data."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError

from rsd_core.data import Data, explain, nearest, of_kind
from rsd_core.errors import ConfigurationError
from rsd_core.plugins import Registry, of_class


class Splitter(Data):
    """Says where the first step of a text ends."""

    @abstractmethod
    def end(self, text: str) -> int | None:
        """Length of the first step.

        Args:
            text: The text so far, from the beginning of the step.

        Returns:
            None while the step may continue. Once found, the end does not change with more text.
        """

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings to send to servers, if any; a step may end before one."""
        return ()


class Delimiter(Splitter):
    """A step ends after a text; by default after a blank line.

    A step never consists of white space alone: a model without a chat template begins with an empty line.
    """

    kind: Literal["delimiter"] = "delimiter"
    text: Annotated[str, Field(min_length=1)] = "\n\n"

    def end(self, text: str) -> int | None:
        at = text.find(self.text, len(text) - len(text.lstrip()) if self.text.isspace() else 0)
        return None if at < 0 else at + len(self.text)

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.text,)


class Sentence(Splitter):
    """A step is a sentence: it ends after a full stop, question mark or exclamation mark followed by white space.

    The next step begins with that white space. A blank line ends a step as well.
    """

    kind: Literal["sentence"] = "sentence"

    def end(self, text: str) -> int | None:
        match = re.search(r"\S[.!?…。！？]+[\"')\]*]*(?=\s)|\n[ \t]*\n", text.lstrip())
        if match is None:
            return None
        return len(text) - len(text.lstrip()) + match.end()


class Words(Splitter):
    r"""A step ends before a paragraph that opens a new thought: "Wait", "But", "Alternatively".

    The word is seen only once it is written, so it is dropped and rewritten by the next step's author: greedy decoding
    repeats it, and sampling draws again.
    """

    kind: Literal["words"] = "words"
    words: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        BeforeValidator(lambda value: value.split("+") if isinstance(value, str) else value),
        Field(min_length=1),
    ] = ("Wait", "But", "Alternatively", "Hmm", "However", "Let me", "So", "Now")
    """What begins a new step, also as part of a longer word ("So" in "Some"); as text, separated by `+`."""

    def end(self, text: str) -> int | None:
        start = len(text) - len(text.lstrip())
        ends = [at for word in self.words if (at := text.find(f"\n\n{word}", start)) >= 0]
        return min(ends) + 2 if ends else None

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(f"\n\n{word}" for word in self.words)


class InThought(Splitter):
    """A step of a thought: ends where another splitter says, and where the thought is closed.

    The white space after the marker belongs to the step, up to a blank line: the answer begins with its own text.
    """

    kind: Literal["in_thought"] = "in_thought"
    close: str
    inner: SerializeAsAny[Splitter] | None
    """None if only the end of the thought ends a step."""

    def end(self, text: str) -> int | None:
        at = text.find(self.close)
        end = None if self.inner is None else self.inner.end(text if at < 0 else text[:at])
        if end is not None or at < 0:
            return end
        rest = text[at + len(self.close) :]
        space, blank = len(rest) - len(rest.lstrip()), rest.find("\n\n")
        if 0 <= blank < space:
            space = blank + 2
        elif space == len(rest):
            return None
        return len(text) - len(rest) + space

    @property
    def stops(self) -> tuple[str, ...]:
        return () if self.inner is None else self.inner.stops


class Checked(Splitter):
    """Wraps a custom splitter: an invalid end raises an error that names it."""

    kind: Literal["checked"] = "checked"
    inner: SerializeAsAny[Splitter]

    def end(self, text: str) -> int | None:
        if not text:
            return None
        try:
            end = self.inner.end(text)
        except Exception as error:
            raise ConfigurationError(
                f"end() of the splitter {self.inner!r} failed: {type(error).__name__}: {error}"
            ) from error
        if end is None or (isinstance(end, int) and 0 < end <= len(text)):
            return end
        raise ConfigurationError(
            f"end() of the splitter {self.inner!r} returned {end!r} for a text of {len(text)} characters: it must "
            f"return an integer from 1 to {len(text)}, or None while the step may continue"
        )

    @property
    def stops(self) -> tuple[str, ...]:
        return self.inner.stops


BUILT_IN: dict[str, type[Splitter]] = {"delimiter": Delimiter, "sentence": Sentence, "words": Words}
SPLITTERS = Registry("splitter", "rsd.splitters", BUILT_IN, of_class(Splitter))  # type: ignore[type-abstract]
"""All known splitters by kind, including those of installed packages."""
NAMED = {"blank_line": "\n\n", "line": "\n"}
AS_TEXT = "A text between steps is written exactly as in the responses, white space included"


def parse_delimiter(delimiter: str | Mapping[str, Any] | Splitter) -> str | Splitter:
    r"""What ends a step, from text, from data, or from a splitter.

    `blank_line`, `line`, `sentence`, `words` and `words:Wait+But` name splitters; any other text is itself the
    delimiter.

    Raises:
        ConfigurationError: Unknown kind or parameter, an empty text, or a misspelt name.
    """
    try:
        return _parse(delimiter)
    except ValidationError as error:
        raise ConfigurationError(f"{delimiter!r} is not a valid delimiter: {explain(error)}") from error


def _parse(delimiter: Any) -> str | Splitter:
    if isinstance(delimiter, Splitter):
        return delimiter.text if type(delimiter) is Delimiter else delimiter
    if isinstance(delimiter, str):
        kind, _, rest = delimiter.partition(":")
        if delimiter in NAMED:
            return NAMED[delimiter]
        if kind == "words":
            return Words.model_validate({"words": rest} if rest else {})
        if delimiter.isidentifier() and delimiter in SPLITTERS:
            return of_kind({"kind": delimiter}, SPLITTERS, "splitter")
        if not delimiter:
            raise ConfigurationError("an empty text cannot end a step: give one such as '\\n\\n', or a splitter's name")
        if delimiter.isidentifier() and (near := nearest(delimiter, (*NAMED, *SPLITTERS))):
            raise ConfigurationError(f"{delimiter!r} is not a splitter; did you mean {near!r}? {AS_TEXT}")
        return delimiter
    return _parse(of_kind(delimiter, SPLITTERS, "splitter"))


AnyDelimiter = Annotated[str | SerializeAsAny[Splitter], BeforeValidator(_parse)]
"""A field that holds what ends a step: a text, or any splitter."""


def splitter(delimiter: str | Splitter | None, close: str = "") -> Splitter | None:
    """What ends the requested step.

    Args:
        delimiter: A text or a splitter; None if only the whole response ends.
        close: The marker that ends a thought, if the step is part of one.
    """
    try:
        return _cached(delimiter, close)
    except TypeError:  # a splitter with an unhashable field, such as a list
        return _splitter(delimiter, close)


def _splitter(delimiter: str | Splitter | None, close: str) -> Splitter | None:
    inner = Delimiter(text=delimiter) if isinstance(delimiter, str) else delimiter
    if inner is not None and type(inner) not in BUILT_IN.values():
        inner = Checked(inner=inner)
    return InThought(close=close, inner=inner) if close else inner


_cached = cache(_splitter)
