"""Maps paths to the ids that a model reads: a function of the path alone, each node encoded once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary

from rsd_core import Path, Step, Thinking
from rsd_integrations.inprocess.path_cache import shared

_LETTER = "x"
"""Stands for the text that follows if a response continues."""


class Words(Protocol):
    """The required interface of a vocabulary (see `Vocabulary`)."""

    @property
    def identity(self) -> str:
        """Equal for vocabularies that give every id the same meaning."""

    @property
    def pieces(self) -> list[bytes] | dict[int, bytes]:
        """The bytes of every id."""

    def marked(self, thinking: Thinking | None) -> Words:
        """The vocabulary for requests with these thoughts."""

    def root(self, path: Path) -> list[int]:
        """Ids of the prompt of a path."""

    def read(self, ids: Sequence[int], before: bytes = b"") -> tuple[str, bytes]:
        """The text of some ids, and the incomplete character at their end."""

    def following(self, text: str) -> list[int]:
        """Ids of a text that follows another text."""

    def settled(self, text: str) -> tuple[list[int], str]:
        """The first ids of a text, which no following text can change, and the rest of the text."""

    def written(self, id_: int) -> bytes:
        """The text of an id; special tokens by their names."""


class _Node(NamedTuple):
    """A step's change to the end of the ids of the path before it."""

    dropped: int
    """Number of ids removed."""
    ids: tuple[int, ...]
    """Ids added in their place."""
    text: str = ""
    """The end of a text that came without ids: more text may change the tokens of this part."""
    tail: tuple[int, ...] = ()
    """Its ids, the last ones of the path."""
    begun: tuple[int, ...] = ()
    """The last sampled ids, if they end inside a character."""


@dataclass(frozen=True, slots=True)
class Continued:
    """A path with each of several candidates for the step after it."""

    prefix: list[int]
    """The ids that all candidates share."""
    prompt: int
    """Number of prompt ids among them."""
    feeds: list[tuple[int, ...]]
    """The ids after the prefix, for each candidate."""
    own: list[int]
    """Number of each candidate's last ids that spell its own text; those before them belong to the path."""


class PathIds:
    """Ids of paths, each node encoded once and forgotten with it.

    Ids sampled in this vocabulary are kept. All text between them, whatever its steps, is tokenised as a whole, since
    the next step may change how the end of a step is tokenised. So a node may remove ids from the end of those before
    it. A character that sampled ids begin and none complete is not part of any text, and its ids are removed if text
    follows.

    Args:
        vocabulary: The vocabulary that tokenises.
        lock: The tokenizer's lock, if shared: tokenizers are not thread-safe.
    """

    def __init__(self, vocabulary: Words, lock: threading.Lock | None = None) -> None:
        self._vocabulary = vocabulary
        self._known: WeakKeyDictionary[Path, _Node] = WeakKeyDictionary()
        self.lock = lock or threading.Lock()

    def __call__(self, path: Path, *, goes_on: bool = False) -> tuple[list[int], int]:
        """Ids of a whole path, and the number of prompt ids.

        Args:
            path: The path.
            goes_on: Whether it will be continued: text at its end is then tokenised as before a letter. GPT-2's
                splitting has one token for a blank line at the end of a text, and two inside a text.
        """
        with self.lock:
            ids, prompt = self._joined(path)
            if goes_on:
                dropped, end = _opened(self._words(path), self._node(path))
                ids[len(ids) - dropped :] = end
        return ids, prompt

    def begun(self, path: Path) -> bytes:
        """The incomplete character at the end of a path; empty if it ends between characters."""
        with self.lock:
            return self._words(path).read(self._node(path).begun)[1]

    def guess(self, path: Path, step: Step) -> tuple[int, ...]:
        """Ids of a step that can follow a continued path unchanged; empty if they cannot."""
        with self.lock:
            words, node = self._words(path), self._node(path)
            (dropped, end), own = _opened(words, node), _next(words, node, step)
        kept = dropped - own.dropped
        if kept < 0 or own.ids[: len(end)] != end:
            return ()
        return own.ids[len(end) :] if not kept else ()

    def after(self, path: Path, steps: Sequence[Step]) -> Continued:
        """A path with each of several steps after it, which are continued unless they end the response."""
        with self.lock:
            ids, prompt = self._joined(path)
            words, node = self._words(path), self._node(path)
            ends, own = [], []
            for step in steps:
                next_node = _next(words, node, step)
                dropped, end = next_node.dropped, [*next_node.ids]
                taken = ids[len(ids) - dropped :]
                if step.ending != "end":
                    off, opened = _opened(words, next_node)
                    if off > len(end):
                        dropped += off - len(end)
                    end[max(0, len(end) - off) :] = opened
                ends.append((len(ids) - dropped, end))
                own.append(_own(words, step, node, next_node, taken, end))
        size = min([kept for kept, _ in ends], default=len(ids))
        feeds = [(*ids[size:kept], *end) for kept, end in ends]
        return Continued(ids[:size], prompt, feeds, own)

    def _joined(self, path: Path) -> tuple[list[int], int]:
        self._node(path)
        nodes = [self._known[place] for place in path.up()]
        ids = [*nodes[-1].ids]
        prompt = len(ids)
        for node in reversed(nodes[:-1]):
            if node.dropped:
                del ids[-node.dropped :]
            ids += node.ids
        return ids, prompt

    def _node(self, path: Path) -> _Node:
        """The node of a path; creates missing ones before it."""
        new: list[Path] = []
        for place in path.up():
            if place in self._known:
                break
            new.append(place)
        for place in reversed(new):
            if place.parent is None or place.step is None:
                self._known[place] = _Node(0, tuple(self._vocabulary.root(place)))
            else:
                self._known[place] = _next(self._words(path), self._known[place.parent], place.step)
        return self._known[path]

    def _words(self, path: Path) -> Words:
        return self._vocabulary.marked(path.thinking)


def _next(words: Words, before: _Node, step: Step) -> _Node:
    sampled = step.tokens if step.vocabulary == words.identity else ()
    lost, rest = words.read(before.begun)
    if sampled and step.text.startswith(words.read(sampled, rest)[0]):
        dropped, lead = _opened(words, before)
        return _Node(dropped, (*lead, *sampled), begun=_begun(words, (*before.begun, *sampled)))
    if sampled:  # by a model that did not read the incomplete character
        lead = tuple(words.following(lost))
        return _Node(len(before.begun), (*lead, *sampled), begun=_begun(words, sampled))
    text, old = (lost + step.text, before.begun) if before.begun else (before.text + step.text, before.tail)
    settled, text = words.settled(text)
    tail = tuple(words.following(text))
    ids = (*settled, *tail)
    same = shared(old, ids)
    return _Node(len(old) - same, ids[same:], text, tail)


def _opened(words: Words, node: _Node) -> tuple[int, tuple[int, ...]]:
    """The change at the end of a path if it is continued: number of ids removed, and ids in their place."""
    if not node.tail:
        return 0, ()
    *ids, last = words.following(node.text + _LETTER)
    if words.pieces[last] != _LETTER.encode():
        return 0, ()
    same = shared(node.tail, tuple(ids))
    return len(node.tail) - same, tuple(ids[same:])


def _begun(words: Words, ids: tuple[int, ...]) -> tuple[int, ...]:
    """The last ids, from the one in which an incomplete character begins."""
    count, missing = 0, len(words.read(ids)[1])
    while missing > 0:
        count += 1
        missing -= len(words.pieces[ids[-count]])
    return ids[len(ids) - count :]


def _own(words: Words, step: Step, before: _Node, node: _Node, taken: Sequence[int], ids: Sequence[int]) -> int:
    """Number of last ids that spell a step: those it added, minus those removed for it.

    The length of its text does not show it, since tokenizers that normalise change the number of bytes.
    """
    if step.tokens and step.vocabulary == words.identity:
        return len(step.tokens)
    lost = len(words.read(before.begun)[1])  # of an incomplete character that is dropped
    count, size = 0, _size(words, node.ids) - _size(words, taken) + lost
    while size > 0 and count < len(ids):
        count += 1
        size -= len(words.written(ids[-count]))
    return count


def _size(words: Words, ids: Sequence[int]) -> int:
    """The number of bytes that ids spell."""
    return sum(len(words.written(id_)) for id_ in ids)
