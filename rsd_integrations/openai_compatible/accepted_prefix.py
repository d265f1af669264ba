"""How much of a rejected draft its target would have written, according to a server that ranks a prompt's tokens."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rsd_core import ConfigurationError, Path, Step
from rsd_core.paths import Ending
from rsd_core.splitting import Splitter
from rsd_integrations.openai_compatible.answers import Answer
from rsd_integrations.openai_compatible.charges import Charges, token_counts, usage_in
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.prompts import SentPath
from rsd_integrations.openai_compatible.server import Server
from rsd_integrations.openai_compatible.written import WrittenIds

if TYPE_CHECKING:
    from rsd_integrations.inprocess.vocabulary import Vocabulary


class NoRanksError(ConfigurationError):
    """A server does not report the ranks of a prompt's tokens, for example because a proxy drops them."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The beginning of a draft that greedy decoding would have written."""

    answer: Answer
    ended: bool
    """Whether the step ends with it."""


class Guess:
    """A draft, in the tokens of the model that will replace it.

    Args:
        vocabulary: The model's vocabulary.
        path: What precedes it in the request.
        draft: The rejected step.
        splitter: What ends a step.
        most: Maximum length of the guess, in tokens.
    """

    def __init__(self, vocabulary: Vocabulary, path: Path, draft: Step, splitter: Splitter | None, most: int) -> None:
        self._vocabulary, self._splitter = vocabulary, splitter
        self._end, pieces = vocabulary.tokenizer.eos_token_id, vocabulary.pieces
        end = [self._end] if draft.ending == "end" and isinstance(self._end, int) else []
        self._character, ids = vocabulary.ids.begun(path), vocabulary.ids.guess(path, draft)
        plain = itertools.takewhile(lambda id_: pieces[id_], ids)  # special tokens may end the answer
        self.ids = [*plain, *end][:most]

    async def verify(self, endpoint: Endpoint, server: Server, sent: SentPath, charges: Charges) -> Accepted:
        """Have a server read it as part of a request.

        Raises:
            NoRanksError: The server reports nothing about the tokens it read.
        """
        reading = sent.longer(self.ids)
        body = {"model": endpoint.model, **reading.fields, "max_tokens": 1, "temperature": 0, **server.profile.ranks}

        def read(reply: Mapping[str, Any]) -> Accepted:
            (choice,) = reply["choices"]
            reading.check_read(token_counts(reply).get("read"), server.context)
            if not choice.get("prompt_logprobs"):
                raise NoRanksError("the server does not report the ranks of a prompt's tokens")
            return self.accepted(choice["prompt_logprobs"])

        def charge(reply: Mapping[str, Any], accepted: Accepted | None, seconds: float) -> None:
            usage = usage_in(reply, seconds)
            length = usage.prefix or reading.estimate
            generated = 1 if accepted is None else len(accepted.answer.ids)
            computed = max(0, length - usage.reused) + 1  # the accepted part was read, and one token written
            charges.add(replace(usage, prefix=length, computed=computed, generated=generated))

        return await endpoint.post(sent.route, body, read, charge)

    def accepted(self, ranked: Sequence[Mapping[str, Any] | None]) -> Accepted:
        """Its accepted prefix.

        Args:
            ranked: For each token of the prompt, which ends with the guess: the candidates by id, with rank and
                log-probability (vLLM's `prompt_logprobs`). The greedy choice has rank 1.

        Raises:
            ValueError: It is shorter than the guess, or does not cover it.
        """
        written, logprobs = WrittenIds(self._vocabulary, self._character), list[float]()
        for id_, candidates in zip(self.ids, ranked[-len(self.ids) :], strict=True):
            if candidates is None:
                raise ValueError("nothing is reported about the guess")
            own = candidates[str(id_)]
            if own["rank"] != 1:
                break
            written.add((id_,))
            logprobs.append(float(own["logprob"]))
            end = None if self._splitter is None else self._splitter.end(written.text)
            if end is not None:
                return self._accepted(written, logprobs, "delimiter", written.count(end))
            if id_ == self._end:
                return self._accepted(written, logprobs, "end", len(written.ids))
        # The server looks for stop strings only in what it writes itself, so that must contain a whole one, and whole
        # characters.
        count, stops = len(written.ids), () if self._splitter is None else self._splitter.stops
        begun = [stop[:n] for stop in stops for n in range(1, len(stop))]
        while count and (written.begun(count) or written.text_of(count).endswith(tuple(begun))):
            count -= 1
        return self._accepted(written, logprobs, "length", count)

    @staticmethod
    def _accepted(written: WrittenIds, logprobs: Sequence[float], ending: Ending, count: int) -> Accepted:
        answer = Answer("", ending, tuple(written.ids[:count]), tuple(logprobs[:count]), wrote=count)
        return Accepted(answer, ended=ending != "length")
