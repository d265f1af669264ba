"""How much of a rejected draft its target would have written: a server that ranks a prompt's tokens tells."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rsd_core import ConfigurationError, Step
from rsd_core.paths import Ending
from rsd_integrations.openai_compatible.answers import Answer
from rsd_integrations.openai_compatible.charges import Charges, token_counts, usage_in
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.prompts import SentPath
from rsd_integrations.openai_compatible.server import Server

if TYPE_CHECKING:
    from rsd_integrations.huggingface.vocabulary import Vocabulary


class NoRanksError(ConfigurationError):
    """A server reads a prompt and tells no ranks of its tokens, as a proxy that hands on what it knows."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The beginning of a draft that greedy decoding would have written."""

    answer: Answer
    ended: bool
    """Whether the step ends with it."""


class Guess:
    """A draft, in the tokens of the model that is to write in its place.

    Args:
        vocabulary: The model's.
        draft: What was rejected.
        delimiter: What a step ends after.
        most: Longest guess, in tokens.
    """

    def __init__(self, vocabulary: Vocabulary, draft: Step, delimiter: str | None, most: int) -> None:
        self._end, self._pieces = vocabulary.tokenizer.eos_token_id, vocabulary.pieces
        self._mark = b"" if delimiter is None else delimiter.encode()
        end = [self._end] if draft.ending == "end" and isinstance(self._end, int) else []
        plain = itertools.takewhile(lambda id_: self._pieces[id_], vocabulary.step(draft))  # others may end the answer
        self.ids = [*plain, *end][:most]

    async def verify(self, endpoint: Endpoint, server: Server, sent: SentPath, charges: Charges) -> Accepted:
        """Let a server read it after what else is sent.

        Raises:
            NoRanksError: The server tells nothing of the tokens that it read.
        """
        reading = sent.longer(self.ids)
        body = {"model": endpoint.model, **reading.fields, "max_tokens": 1, "temperature": 0, **server.profile.ranks}

        def read(reply: Mapping[str, Any]) -> Accepted:
            (choice,) = reply["choices"]
            reading.check_read(token_counts(reply).get("read"), server.context)
            if not choice.get("prompt_logprobs"):
                raise NoRanksError("the server tells no ranks of a prompt's tokens")
            return self.accepted(choice["prompt_logprobs"])

        def charge(reply: Mapping[str, Any], accepted: Accepted | None, seconds: float) -> None:
            usage = usage_in(reply, seconds)
            length = usage.prefix or reading.estimate
            generated = 1 if accepted is None else len(accepted.answer.ids)
            computed = max(0, length - usage.reused) + 1  # what is accepted was read, and one token written after it
            charges.add(replace(usage, prefix=length, computed=computed, generated=generated))

        return await endpoint.post(sent.route, body, read, charge)

    def accepted(self, ranked: Sequence[Mapping[str, Any] | None]) -> Accepted:
        """The beginning of it that is accepted.

        Args:
            ranked: Of each token of the prompt, at whose end the guess stands: what might be there, by id, with its
                rank and log-probability (vLLM's `prompt_logprobs`). The greedy choice has rank 1.

        Raises:
            ValueError: It is shorter than the guess, or tells nothing of it.
        """
        ids, logprobs, written = list[int](), list[float](), b""
        for id_, candidates in zip(self.ids, ranked[-len(self.ids) :], strict=True):
            if candidates is None:
                raise ValueError("nothing is told of the guess")
            own = candidates[str(id_)]
            if own["rank"] != 1:
                break
            ids.append(id_)
            logprobs.append(float(own["logprob"]))
            written += self._pieces[id_]
            if id_ == self._end or (self._mark and self._mark in written):
                ending: Ending = "end" if id_ == self._end else "delimiter"
                return Accepted(Answer("", ending, tuple(ids), tuple(logprobs), wrote=len(ids)), ended=True)
        # The server looks for the delimiter in what it writes itself, so that has to hold all of it.
        while ids and any(written.endswith(self._mark[:n]) for n in range(1, len(self._mark))):
            written = written[: len(written) - len(self._pieces[ids.pop()])]
        return Accepted(Answer("", "length", tuple(ids), tuple(logprobs[: len(ids)]), wrote=len(ids)), ended=False)
