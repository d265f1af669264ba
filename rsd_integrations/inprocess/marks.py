"""Thoughts as a language model reads them: with their markers where it knows these, otherwise without."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from rsd_core import Markers, Path, Step
from rsd_core.thoughts.reading import reader_at
from rsd_integrations.inprocess.vocabulary import Vocabulary
from rsd_integrations.prm_formats import plain_step, without_markers


class Marks:
    """What a language model reads of responses with thoughts, and which of the tokens are judged.

    A model whose vocabulary has tokens for the markers reads a response exactly as it was written. Another one has
    never seen them: it reads the text of the thought and then that of the answer.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._knows = lru_cache(16)(self._has_tokens)

    def ids(self, path: Path) -> tuple[list[int], int]:
        """Ids of a path, and how many of them are the prompt."""
        markers = reader_at(path).markers
        return self._vocabulary.ids(path if markers is None or self._knows(markers) else without_markers(path))

    def step(self, path: Path, step: Step) -> tuple[Sequence[int], tuple[bool, ...]]:
        """Ids of a step after a path; for each, whether it is more than a marker and white space around one."""
        after = reader_at(path.extend(step))
        as_written = after.markers is not None and self._knows(after.markers)
        ids = self._vocabulary.step(step if as_written else plain_step(path, step))
        spans = _marks(step.text, after.markers) if after.markers is not None and as_written else []
        if not spans:
            return ids, (True,) * len(ids)
        places = self._places(ids, step.text)
        if places is None:  # the tokens do not spell the text
            ids = self._vocabulary.encode(step.text)
            places = self._places(ids, step.text) or [(0, len(step.text.encode()))] * len(ids)
        return ids, tuple(not any(a <= begin and end <= b for a, b in spans) for begin, end in places)

    def _has_tokens(self, markers: Markers) -> bool:
        added = self._vocabulary.tokenizer.added_tokens_decoder
        return any(id_ in added for id_ in self._vocabulary.encode(markers.close))

    def _places(self, ids: Sequence[int], text: str) -> list[tuple[int, int]] | None:
        """Where in the text's bytes each token stands; None where they do not spell it."""
        added = self._vocabulary.tokenizer.added_tokens_decoder
        places, at = [], 0
        for id_ in ids:
            size = len(str(added[id_]).encode() if id_ in added else self._vocabulary.pieces[id_])
            places.append((at, at + size))
            at += size
        return places if at == len(text.encode()) else None


def _marks(text: str, markers: Markers) -> list[tuple[int, int]]:
    """Where in a text's bytes markers stand, with the white space around them."""
    names = (markers.ending.strip(), markers.open, markers.close, markers.answer)
    pattern = "|".join(re.escape(name) for name in names if name)
    spans = (match.span() for match in re.finditer(rf"\s*(?:{pattern})\s*", text))
    return [(len(text[:begin].encode()), len(text[:end].encode())) for begin, end in spans]
