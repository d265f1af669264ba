"""Maps paths to the ids that a model reads, encoding each node of a path once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from rsd_core import Explanation, Path, Step, VerifierError
from rsd_integrations.prm_formats.layouts import Layout
from rsd_integrations.prm_formats.readers import Reader
from rsd_integrations.prm_formats.shown import Shown, shown


def _shown(path: Path, step: Step) -> Shown:
    """A step, with the white space of blank steps right before it, which are not read on their own."""
    seen, space = shown(path, step), ""
    if not seen or seen.gap:
        return seen
    for node in path.up():
        before = shown(node.parent, node.step).text if node.parent is not None and node.step is not None else ""
        if not before.isspace():
            break
        space = before + space
    if not space:
        return seen
    return replace(seen, thought=space + seen.thought) if seen.thought else replace(seen, answer=space + seen.answer)


class Layouts:
    """How a reward model reads paths, each text encoded once. It does not keep the model alive."""

    def __init__(self, reader: Reader[Any]) -> None:
        self._reader = reader
        self._step = lru_cache(4096)(reader.step)
        self._known: WeakKeyDictionary[Path, tuple[tuple[int, ...], Any]] = WeakKeyDictionary()
        """Ids of each node of a path, and the reader's position after it."""
        self._lock = threading.RLock()  # tokenizers are not thread-safe

    def ids(self, path: Path) -> tuple[list[int], int]:
        """Ids of a path, and how many of them are the prompt."""
        with self._lock:
            self._read(path)
            parts = [self._known[node][0] for node in path.up()]
        return [id_ for part in reversed(parts) for id_ in part], len(parts[-1])

    def step(self, path: Path, step: Step) -> Layout:
        """The layout of a step after a path.

        Raises:
            VerifierError: It contains only white space and thought markers.
        """
        text = _shown(path, step)
        if not text:
            raise VerifierError(
                f"{self._reader.model}: the step is blank or a bare thought marker, and a lone separator means "
                "nothing to reward models"
            )
        with self._lock:
            return self._step(text, self._read(path))[0]

    def _read(self, path: Path) -> Any:
        """Read the new nodes of a path; return the position after the last one."""
        new: list[Path] = []
        for node in path.up():
            if node in self._known:
                break
            new.append(node)
        for node in reversed(new):
            ids: Sequence[int] = ()  # for a blank step or a bare marker
            if node.parent is None or node.step is None:
                ids, at = self._reader.prompt(node)
            elif text := _shown(node.parent, node.step):
                layout, at = self._step(text, self._known[node.parent][1])
                ids = layout.kept
            else:
                at = self._known[node.parent][1]
            self._known[node] = tuple(ids), at
        return self._known[path][1]

    def explain(self, path: Path, step: Step) -> Explanation:
        """The input for a step, and where its score is read."""
        before, _ = self.ids(path)
        layout = self.step(path, step)
        ids = [*before, *layout.feed]
        tokenizer = self._reader.tokenizer
        at = tuple(len(before) + offset for offset in layout.read)
        named = tuple(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True))
        return Explanation(str(tokenizer.decode(ids)), named, at, len(before) + len(layout.kept))
