"""Rejected drafts as guesses: a server that ranks the tokens of a prompt tells how far it would have written one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rsd_core import ConfigurationError, Step, Usage
from rsd_core.paths import Ending
from rsd_integrations.openai_compatible.answers import Answer, usage_of
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.prompts import Asked
from rsd_integrations.openai_compatible.server import Server

if TYPE_CHECKING:
    from rsd_integrations.huggingface.vocabulary import Vocabulary


class NoRanksError(ConfigurationError):
    """A server reads a prompt and tells no ranks of its tokens, as a proxy that hands on what it knows."""


class Guess:
    """A draft, in the tokens of the model that is to write in its place.

    Args:
        words: The model's vocabulary.
        draft: What was rejected.
        delimiter: What a step ends after.
        most: Longest guess, in tokens.
    """

    def __init__(self, words: Vocabulary, draft: Step, delimiter: str | None, most: int) -> None:
        self._end, self._pieces = words.tokenizer.eos_token_id, words.pieces
        self._mark = b"" if delimiter is None else delimiter.encode()
        end = [self._end] if draft.ending == "end" and isinstance(self._end, int) else []
        plain = itertools.takewhile(lambda id_: words.pieces[id_], words.step(draft))  # others may end the answer
        self.ids = [*plain, *end][:most]

    async def read(self, endpoint: Endpoint, server: Server, asked: Asked) -> tuple[Answer, bool, Usage]:
        """Let a server read it after what else is asked.

        Returns:
            Its beginning that greedy decoding would have written, whether the step ends with it, and the work.

        Raises:
            NoRanksError: The server tells nothing of the tokens that it read.
        """
        started, reading = time.monotonic(), asked.longer(self.ids)
        body = {"model": endpoint.model, **reading.fields, "max_tokens": 1, "temperature": 0, **server.profile.ranks}

        def take(data: Mapping[str, Any]) -> tuple[Answer, bool, Usage]:
            (choice,) = data["choices"]
            if not choice.get("prompt_logprobs"):
                raise NoRanksError("the server tells no ranks of a prompt's tokens")
            return *self.kept(choice["prompt_logprobs"]), usage_of(data, time.monotonic() - started)

        kept, ended, told = await endpoint.post(asked.route, body, take)
        reading.check_read(told.prefix or None, server.context)
        read = told.prefix or reading.estimate
        usage = replace(told, prefix=read, computed=max(0, read - told.reused) + 1, generated=len(kept.ids))
        return kept, ended, usage

    def kept(self, told: Sequence[Mapping[str, Any] | None]) -> tuple[Answer, bool]:
        """What stays of it, and whether the step ends with it.

        Args:
            told: Of each token of the prompt, at whose end the guess stands: what might be there, by id, with its rank
                and log-probability (vLLM's `prompt_logprobs`). The greedy choice has rank 1.

        Raises:
            ValueError: It is shorter than the guess, or tells nothing of it.
        """
        ids, logprobs, written = list[int](), list[float](), b""
        for id_, ranked in zip(self.ids, told[-len(self.ids) :], strict=True):
            if ranked is None:
                raise ValueError("nothing is told of the guess")
            own = ranked[str(id_)]
            if own["rank"] != 1:
                break
            ids.append(id_)
            logprobs.append(float(own["logprob"]))
            written += self._pieces[id_]
            if id_ == self._end or (self._mark and self._mark in written):
                ending: Ending = "end" if id_ == self._end else "delimiter"
                return Answer("", ending, tuple(ids), tuple(logprobs), wrote=len(ids)), True
        # The server looks for the delimiter in what it writes itself, so that has to hold all of it.
        while ids and any(written.endswith(self._mark[:n]) for n in range(1, len(self._mark))):
            written = written[: len(written) - len(self._pieces[ids.pop()])]
        return Answer("", "length", tuple(ids), tuple(logprobs[: len(ids)]), wrote=len(ids)), False
