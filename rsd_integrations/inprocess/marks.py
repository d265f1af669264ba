"""Thoughts as language models read them: with their markers if the model knows them, otherwise without."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

from rsd_core import Markers, Path, Step
from rsd_core.thoughts.reading import reader_at
from rsd_integrations.inprocess.path_ids import Continued
from rsd_integrations.inprocess.vocabulary import Vocabulary
from rsd_integrations.prm_formats import plain_step, without_markers


class Marks:
    """A language model's input for responses with thoughts, and the tokens that are judged.

    A model whose vocabulary has tokens for the markers reads a response exactly as it was generated. Any other has
    never seen them: it reads the text of the thought and then that of the answer.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._knows = lru_cache(16)(self._has_tokens)

    def after(self, path: Path, steps: Sequence[Step]) -> tuple[Continued, list[tuple[bool, ...]]]:
        """A path with each of several steps after it; and for each id of a step, whether it is judged.

        Markers and the white space around them are not judged.
        """
        markers = reader_at(path).markers
        before = path if markers is None or self._knows(markers) else without_markers(path)
        known, read = [], []
        for step in steps:
            markers = reader_at(path.extend(step)).markers
            markers = markers if markers is not None and self._knows(markers) else None
            known.append(markers)
            read.append(plain_step(path, step) if markers is None else step)
        continued = self._vocabulary.ids.after(before, read)
        judged = [
            self._judged(ids[len(ids) - own :], markers)
            for markers, ids, own in zip(known, continued.feeds, continued.own, strict=True)
        ]
        return continued, judged

    def _judged(self, ids: Sequence[int], markers: Markers | None) -> tuple[bool, ...]:
        if markers is None:
            return (True,) * len(ids)
        # In the ids' own text, which differs from the step's if a tokenizer normalises or ids are special tokens.
        written = [self._vocabulary.written(id_) for id_ in ids]
        marks = _marks(b"".join(written).decode(errors="surrogateescape"), markers)
        ends = list(accumulate(map(len, written), initial=0))
        return tuple(not any(a <= begin and end <= b for a, b in marks) for begin, end in pairwise(ends))

    def _has_tokens(self, markers: Markers) -> bool:
        added = self._vocabulary.tokenizer.added_tokens_decoder
        return any(id_ in added for id_ in self._vocabulary.encode(markers.close))


def _marks(text: str, markers: Markers) -> list[tuple[int, int]]:
    """The byte spans of markers in a text, with the white space around them."""
    names = (markers.ending.strip(), markers.open, markers.close, markers.answer)
    pattern = "|".join(re.escape(name) for name in names if name)
    spans = (match.span() for match in re.finditer(rf"\s*(?:{pattern})\s*", text))
    return [(_size(text[:begin]), _size(text[:end])) for begin, end in spans]


def _size(text: str) -> int:
    return len(text.encode(errors="surrogateescape"))
