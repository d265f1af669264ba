"""A server's output as raw text: the thought between its markers and the content, however the server sends them."""

from __future__ import annotations

import codecs
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rsd_core import ConfigurationError
from rsd_core.thoughts.markers import MARKERS, Markers
from rsd_integrations.openai_compatible.profile import Profile

if TYPE_CHECKING:
    from rsd_integrations.inprocess.vocabulary import Vocabulary

FIELDS = ("reasoning_content", "reasoning")
"""Fields for thoughts in a message or a delta; a server that fills both repeats the same text."""
THINK = MARKERS["think"]
"""Markers around a thought that arrived without any, if none are known."""


class Written:
    """The text of one choice, as it arrives.

    Args:
        profile: The server's profile; None if only the amount written matters.
        begun: The text that it continues, and may repeat.
        markers: The markers around the thoughts of this response.
    """

    def __init__(self, profile: Profile | None = None, begun: str = "", markers: Markers = THINK) -> None:
        self._inline = None if profile is None else profile.inline
        self._begun, self._markers = begun, markers
        self.thought = ""
        """The thought as separated by the server."""
        self._content = ""

    def add(self, choice: Mapping[str, Any]) -> None:
        """Add the content of a choice in any of the four shapes: completions or chats, whole or streamed.

        Raises:
            TypeError: It is not text.
        """
        thought, content = told(choice)
        self.thought += thought
        self._content += content

    @property
    def length(self) -> int:
        """Characters received, thoughts included."""
        return len(self.thought) + len(self._content)

    def text(self, complete: bool = True) -> str:
        """The raw text. A thought that nothing follows is left open.

        Args:
            complete: Whether everything has arrived: a possible repetition is held back until then.
        """
        thought, content = self.thought, self._content
        if self._begun and content.startswith(self._begun):
            content = content[len(self._begun) :]
        elif self._begun.startswith(content) and not complete:
            content = ""
        if self._inline and not thought and content.lstrip().startswith(self._inline[0]):
            thought, closed, content = content.lstrip()[len(self._inline[0]) :].partition(self._inline[1])
            if not closed:
                return self._markers.begin(thought.removeprefix("\n"))
        if not thought:
            return content
        if not content.strip():
            return self._markers.begin(thought.removeprefix("\n"))
        return self._markers.wrap(thought.strip("\n")) + content.lstrip("\n")


class WrittenIds:
    """The text of sampled ids, and how many ids a part of it needs.

    Args:
        vocabulary: Their vocabulary.
        before: The beginning of their first character, at the end of the preceding ids.
    """

    def __init__(self, vocabulary: Vocabulary, before: bytes = b"") -> None:
        added = vocabulary.tokenizer.added_tokens_decoder.items()
        self._pieces, self._special = vocabulary.pieces, {id_: str(token) for id_, token in added if token.special}
        self.restart((), before)

    def restart(self, ids: Sequence[int], before: bytes) -> None:
        """Restart with these ids, and what comes before them."""
        self.before = before
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder.decode(before)
        self.ids: list[int] = []
        self.text = ""
        self._lengths: list[int] = []
        self._begun: list[bytes] = []
        self.add(ids)

    def add(self, ids: Sequence[int]) -> None:
        """Add the next ids.

        Raises:
            ConfigurationError: One of them is not in the vocabulary.
        """
        for id_ in ids:
            if id_ >= len(self._pieces):
                raise ConfigurationError(f"the server wrote the token {id_}, which is not in the tokenizer given")
            self.text += self._decoder.decode(self._pieces[id_])
            self.ids.append(id_)
            self._lengths.append(len(self.text))
            self._begun.append(self._decoder.getstate()[0])

    def count(self, length: int) -> int:
        """How many ids are needed for this many characters."""
        return min(len(self.ids), bisect_left(self._lengths, length) + 1) if length > 0 else 0

    def text_of(self, count: int) -> str:
        """The text of this many ids."""
        return self.text[: self._lengths[count - 1]] if count else ""

    def begun(self, count: int) -> bytes:
        """The incomplete character at the end of this many ids; empty if they end between characters."""
        return self._begun[count - 1] if count else self.before

    def check(self, told: str) -> None:
        """Compare with the server's text, which usually omits special tokens and may be truncated.

        Raises:
            ConfigurationError: They differ.
        """
        plain = b"".join([self.before, *(self._pieces[id_] for id_ in self.ids if id_ not in self._special)]).decode(
            errors="replace"
        )
        for name in {self._special[id_] for id_ in self.ids if id_ in self._special}:  # llama.cpp shows some of gpt-oss
            plain, told = plain.replace(name, ""), told.replace(name, "")
        if self.before:  # servers send all, the rest or nothing of the first character
            first, told = plain[0], told.lstrip("\ufffd")
            plain, told = plain[1:].lstrip("\ufffd"), told.removeprefix(first)
        own, shown = (text.rstrip("\ufffd").strip() for text in (plain, told))
        if not own.startswith(shown) and not (own and shown.startswith(own)):
            raise ConfigurationError(
                f"the server wrote {told!r}, which reads {plain!r} with the given tokenizer: it belongs to another "
                "model"
            )


def cut_at(text: str, end: int) -> str:
    """A prefix of a text with unknown tokens; newlines that follow a newline belong to it."""
    while text[end - 1 : end] == "\n" and text[end : end + 1] == "\n":
        end += 1
    return text[:end]


def ids_in(choice: Mapping[str, Any]) -> tuple[int, ...]:
    """The sampled ids in a choice: separate (vLLM), or with the log-probabilities (llama.cpp)."""
    ids = choice.get("token_ids")
    if ids is None:
        entries = (choice.get("logprobs") or {}).get("content") or ()
        ids = [entry["id"] for entry in entries if "id" in entry]
    return tuple(ids)


def logprobs_in(choice: Mapping[str, Any]) -> tuple[float, ...]:
    """Their log-probabilities, if requested."""
    logprobs = choice.get("logprobs") or {}
    if logprobs.get("content"):
        return tuple(float(entry["logprob"]) for entry in logprobs["content"])
    return tuple(logprobs.get("token_logprobs") or ())


def sizes_in(choice: Mapping[str, Any]) -> tuple[int, ...]:
    """Sizes of their tokens in bytes."""
    logprobs = choice.get("logprobs") or {}
    if logprobs.get("content"):
        return tuple(len(entry.get("bytes") or entry.get("token", "").encode()) for entry in logprobs["content"])
    return tuple(len(token.encode()) for token in logprobs.get("tokens") or ())


def told(choice: Mapping[str, Any]) -> tuple[str, str]:
    """Thought and content of a choice, as separated by the server."""
    if "text" in choice:
        return "", _text(choice["text"])
    part = choice.get("delta") or choice.get("message") or {}  # some gateways omit them if empty
    thought = next((_text(part[name]) for name in FIELDS if part.get(name)), "")
    content = part.get("content")
    if not isinstance(content, list):
        return thought, _text(content)
    texts = {"thinking": thought, "text": ""}
    for item in content:  # Mistral's format
        if item["type"] in texts:
            inner = item[item["type"]]
            texts[item["type"]] += inner if isinstance(inner, str) else "".join(_text(one["text"]) for one in inner)
    return texts["thinking"], texts["text"]


def _text(value: Any) -> str:
    if not isinstance(value, str | None):
        raise TypeError(f"the text is {type(value).__name__}")
    return value or ""
