"""From paths to the ids that a model reads: a function of the path alone, each node encoded once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary

from rsd_core import Path, Step, Thinking
from rsd_integrations.inprocess.path_cache import shared

_LETTER = "x"
"""Stands for the text that follows where a response goes on."""


class Words(Protocol):
    """What is asked of a vocabulary, see `Vocabulary`."""

    @property
    def identity(self) -> str:
        """Equal for vocabularies that give every id the same meaning."""

    @property
    def pieces(self) -> list[bytes] | dict[int, bytes]:
        """The bytes of every id."""

    def marked(self, thinking: Thinking | None) -> Words:
        """The vocabulary as requests with such thoughts have it."""

    def root(self, path: Path) -> list[int]:
        """Ids of the prompt that a path begins with."""

    def read(self, ids: Sequence[int], before: bytes = b"") -> tuple[str, bytes]:
        """The text of some ids, and the beginning of a character that they end in."""

    def following(self, text: str) -> list[int]:
        """Ids of a text that follows another one."""

    def settled(self, text: str) -> tuple[list[int], str]:
        """The first ids of a text, which nothing that follows it can change, and the rest of it."""

    def written(self, id_: int) -> bytes:
        """What an id writes, special tokens by their names."""


class _Node(NamedTuple):
    """What a step changes at the end of the ids of the path before it."""

    dropped: int
    """How many of those are taken off."""
    ids: tuple[int, ...]
    """What follows in their place."""
    text: str = ""
    """The end of a text that came without ids: more text may change the tokens of this much."""
    tail: tuple[int, ...] = ()
    """Its ids, the last ones of the path."""
    begun: tuple[int, ...] = ()
    """The last sampled ids, where they end inside a character."""


@dataclass(frozen=True, slots=True)
class Continued:
    """A path with each of several candidates for the step after it."""

    prefix: list[int]
    """The ids that all of them share."""
    prompt: int
    """How many of these are the prompt's."""
    feeds: list[tuple[int, ...]]
    """For each candidate, the ids after those."""
    own: list[int]
    """How many of a candidate's last ids write its own text; those before them end the path's."""


class PathIds:
    """Ids of paths, each node encoded once and forgotten with it.

    Ids that were sampled in this vocabulary stay as they are. All text between them, whatever the steps it came in, is
    tokenised as one: a tokenizer may read the end of a step otherwise once the next one is there. So a node may take
    ids off the end of those before it. A character that sampled ids begin and no others complete is no part of any
    text, and its ids are taken off where text follows.

    Args:
        vocabulary: What tokenises.
        lock: That of the tokenizer, where others use it as well: it is not made for several threads at once.
    """

    def __init__(self, vocabulary: Words, lock: threading.Lock | None = None) -> None:
        self._vocabulary = vocabulary
        self._known: WeakKeyDictionary[Path, _Node] = WeakKeyDictionary()
        self.lock = lock or threading.Lock()

    def __call__(self, path: Path, *, goes_on: bool = False) -> tuple[list[int], int]:
        """Ids of a whole path, and how many of them are the prompt.

        Args:
            path: The path.
            goes_on: Whether more is to be written: text at its end is tokenised as it is before a letter. GPT-2's way
                of splitting has one token for a blank line that ends a text, and two inside of it.
        """
        with self.lock:
            ids, prompt = self._joined(path)
            if goes_on:
                dropped, end = _opened(self._words(path), self._node(path))
                ids[len(ids) - dropped :] = end
        return ids, prompt

    def begun(self, path: Path) -> bytes:
        """The beginning of the character that a path ends in; empty where it ends between characters."""
        with self.lock:
            return self._words(path).read(self._node(path).begun)[1]

    def guess(self, path: Path, step: Step) -> tuple[int, ...]:
        """Ids of a step as they may follow what a model reads that goes on with the path; empty where they cannot."""
        with self.lock:
            words, node = self._words(path), self._node(path)
            (dropped, end), own = _opened(words, node), _next(words, node, step)
        kept = dropped - own.dropped
        if kept < 0 or own.ids[: len(end)] != end:
            return ()
        return own.ids[len(end) :] if not kept else ()

    def after(self, path: Path, steps: Sequence[Step]) -> Continued:
        """A path with each of several steps after it, which go on unless they end the response."""
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
        """That of a path, those before it made as far as they are new."""
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
    if sampled:  # written by a model that did not read what was begun
        lead = tuple(words.following(lost))
        return _Node(len(before.begun), (*lead, *sampled), begun=_begun(words, sampled))
    text, old = (lost + step.text, before.begun) if before.begun else (before.text + step.text, before.tail)
    settled, text = words.settled(text)
    tail = tuple(words.following(text))
    ids = (*settled, *tail)
    same = shared(old, ids)
    return _Node(len(old) - same, ids[same:], text, tail)


def _opened(words: Words, node: _Node) -> tuple[int, tuple[int, ...]]:
    """What changes at the end of a path where more is written: ids taken off, and those in their place."""
    if not node.tail:
        return 0, ()
    *ids, last = words.following(node.text + _LETTER)
    if words.pieces[last] != _LETTER.encode():
        return 0, ()
    same = shared(node.tail, tuple(ids))
    return len(node.tail) - same, tuple(ids[same:])


def _begun(words: Words, ids: tuple[int, ...]) -> tuple[int, ...]:
    """The last ids, from the one on that holds the beginning of a character that is not complete."""
    count, missing = 0, len(words.read(ids)[1])
    while missing > 0:
        count += 1
        missing -= len(words.pieces[ids[-count]])
    return ids[len(ids) - count :]


def _own(words: Words, step: Step, before: _Node, node: _Node, taken: Sequence[int], ids: Sequence[int]) -> int:
    """How many of the last ids write a step: what came with it, less what was taken off for it.

    The length of its text does not tell: tokenizers that normalise write one of fewer bytes, or of more.
    """
    if step.tokens and step.vocabulary == words.identity:
        return len(step.tokens)
    lost = len(words.read(before.begun)[1])  # of a character that was begun, and is written no more
    count, size = 0, _size(words, node.ids) - _size(words, taken) + lost
    while size > 0 and count < len(ids):
        count += 1
        size -= len(words.written(ids[-count]))
    return count


def _size(words: Words, ids: Sequence[int]) -> int:
    """The bytes that ids write."""
    return sum(len(words.written(id_)) for id_ in ids)
