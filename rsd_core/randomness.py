"""Seeds that depend on the request alone, never on what runs alongside it."""

from __future__ import annotations

import copy
import hashlib

from rsd_core.paths import Prompt


class Randomness:
    """The random numbers of one request.

    They are a function of the seed, the prompt and, if a prompt is repeated, its repeat number. Order, batch and
    concurrency cannot matter, since nothing is drawn from a shared stream.
    """

    def __init__(self, seed: int, prompt: Prompt, repeat: int = 0) -> None:
        self._key = repr((int(seed), int(repeat), [(message.role, message.content) for message in prompt])).encode()
        self._hash = self._keyed()

    def branch(self, label: int) -> Randomness:
        """Random numbers for another answer to the same request."""
        other = copy.copy(self)
        other._key += f" {label}".encode()
        other._hash = other._keyed()
        return other

    def seed(self, purpose: str, index: int, number: int) -> int:
        """An integer below 2**63 for a purpose, a step's index, and a number that distinguishes several draws."""
        digest = self._hash.copy()
        digest.update(f"({purpose!r}, {index}, {number})".encode())
        return int.from_bytes(digest.digest(), "big") >> 1

    def uniform(self, purpose: str, index: int, number: int) -> float:
        """A number in [0, 1); arguments as in `seed`."""
        return (self.seed(purpose, index, number) >> 10) / 2**53

    def _keyed(self) -> hashlib.blake2b:
        return hashlib.blake2b(key=hashlib.blake2b(self._key).digest(), digest_size=8)
