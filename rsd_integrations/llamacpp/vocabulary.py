"""The vocabulary of a GGUF file as the decoder needs it, read piece by piece: some have 262,144 tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from weakref import WeakKeyDictionary

from rsd_integrations.inprocess.vocabulary import Vocabulary
from rsd_integrations.llamacpp.model import Model
from rsd_integrations.llamacpp.tokenizer import GGUFTokenizer

_identities: WeakKeyDictionary[Model, str] = WeakKeyDictionary()


def identity_of(tokenizer: GGUFTokenizer) -> str:
    """A fingerprint that is equal for equal vocabularies; read from the file once per loaded model."""
    identity = _identities.get(tokenizer.model)
    if identity is None:
        digest = hashlib.sha256(b"[")
        for at, (id_, token) in enumerate(tokenizer.tokens()):
            digest.update((", " if at else "").encode() + json.dumps([token, id_]).encode())
        digest.update(b"]")
        identity = _identities[tokenizer.model] = digest.hexdigest()[:16]
    return identity


class GGUFVocabulary(Vocabulary):
    """Equivalent to a transformers vocabulary, without a list of all tokens in memory."""

    tokenizer: GGUFTokenizer

    @cached_property
    def identity(self) -> str:
        return identity_of(self.tokenizer)

    @cached_property
    def pieces(self) -> dict[int, bytes]:
        return _Pieces(self.tokenizer, self._marked())

    def all_pieces(self) -> Iterator[bytes]:
        named = {id_ for id_, _ in self.tokenizer.tokens()}
        return (self.tokenizer.piece(id_) if id_ in named else b"" for id_ in range(self.size))

    def _rows(self, size: int) -> int:
        return size


class _Pieces(dict[int, bytes]):
    """The bytes of ids, looked up on demand."""

    def __init__(self, tokenizer: GGUFTokenizer, marking: frozenset[int]) -> None:
        super().__init__()
        self._tokenizer, self._marking = tokenizer, marking

    def __missing__(self, id_: int) -> bytes:
        piece = self[id_] = self._tokenizer.piece(id_, special=id_ in self._marking)
        return piece
