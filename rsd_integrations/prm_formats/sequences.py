"""From paths to the ids that a model reads, each node of a path encoded once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from weakref import WeakKeyDictionary

from rsd_core import Explanation, Path, Step, VerifierError
from rsd_integrations.prm_formats.layouts import Layout
from rsd_integrations.prm_formats.readers import Reader


class PathIds:
    """Ids of paths, each node encoded once and forgotten with it."""

    def __init__(self, encode: Callable[[Path], Sequence[int]]) -> None:
        self._encode = encode
        self._known: WeakKeyDictionary[Path, tuple[int, ...]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def __call__(self, path: Path) -> tuple[list[int], int]:
        """Ids of a whole path, and how many of them are the prompt."""
        parts = []
        with self._lock:  # tokenizers are not made for several threads at once
            for node in path.up():
                own = self._known.get(node)
                if own is None:
                    own = self._known[node] = tuple(self._encode(node))
                parts.append(own)
        return [id_ for part in reversed(parts) for id_ in part], len(parts[-1])


class Layouts:
    """How a reward model reads paths, each text encoded once. It holds nothing of the model, which is freed at once."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._step = lru_cache(4096)(reader.step)
        self.ids = PathIds(self._node_ids)
        """Ids of a path."""

    def step(self, path: Path, step: Step) -> Layout:
        """The layout of a step after a path."""
        if not step.text.strip():
            raise VerifierError(
                f"{self._reader.model}: the step is blank, and reward models give a lone separator no meaning"
            )
        return self._step(step.text, 1 + sum(bool(known.text.strip()) for known in path.steps))

    def _node_ids(self, node: Path) -> Sequence[int]:
        """The prompt, or what stays of a step; nothing of a blank one."""
        if node.step is None:
            return self._reader.prompt(node.prompt)
        assert node.parent is not None
        return self.step(node.parent, node.step).kept if node.step.text.strip() else ()

    def explain(self, path: Path, step: Step) -> Explanation:
        """What is read for a step, and where its score is."""
        before, _ = self.ids(path)
        layout = self.step(path, step)
        ids = [*before, *layout.feed]
        tokenizer = self._reader.tokenizer
        at = tuple(len(before) + offset for offset in layout.read)
        named = tuple(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True))
        return Explanation(str(tokenizer.decode(ids)), named, at, len(before) + len(layout.kept))
