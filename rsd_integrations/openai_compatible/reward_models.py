"""Reward models behind servers. They are sent token ids, so that nothing is tokenised a second time."""

from __future__ import annotations

import json
import math
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rsd_core import (
    ConfigurationError,
    Explanation,
    Path,
    RunError,
    Scores,
    Step,
    Usage,
    Verifier,
    VerifierError,
    as_prompt,
)
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.faults import Refused
from rsd_integrations.openai_compatible.probe import Finding
from rsd_integrations.openai_compatible.profiles import PROFILES
from rsd_integrations.openai_compatible.server import learn
from rsd_integrations.prm_formats import Head, Layouts, Reader

_ROUNDING = 0.02
"""How far two probabilities may be from 1 together: a server may compute them in bf16."""


_FIRST = Path(as_prompt("What is 1+2+3?")).extend(Step("First 1+2=3.\n\n", "delimiter"))
_RIGHT, _WRONG = Step("Then 3+3=6.\n\n", "delimiter"), Step("Then 3+3=7.\n\n", "delimiter")
"""What a server is tried out with."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A text that a server reads to score its last steps."""

    ids: tuple[int, ...]
    at: tuple[int, ...]
    """Positions in `ids` where the scores are read, one for each of the steps."""
    prompt: int
    """How many of the ids come before the first step."""


class RewardServer(Verifier):
    """A reward model behind a URL. It is sent the whole path with every step, and reads what it has not cached.

    Args:
        endpoint: The server and the model's name there.
        reader: The model's format, bound to its tokenizer.
        flops_per_token: Two per weight, for the ledger.
    """

    def __init__(self, endpoint: Endpoint, reader: Reader, flops_per_token: float | None = None) -> None:
        self.name, self.flops_per_token = endpoint.model, flops_per_token
        self.endpoint, self.reader = endpoint, reader
        self.layouts = Layouts(reader)

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Probability that each candidate is right, given the path.

        Raises:
            VerifierError: A step is blank, or path and step are longer than the server's context.
            EndpointError: The server failed, or gave rows that are no scores of these steps.
            Refused: The server does not take such requests.
        """
        before, prompt = self.layouts.ids(path)
        asked = []
        for step in steps:
            layout = self.layouts.step(path, step)
            asked.append(Scored((*before, *layout.feed), (len(before) + layout.read[-1],), prompt))
        started = time.perf_counter()
        rewards, usage = await self._rewards(asked)
        computed = sum(len(one.ids) for one in asked) - usage.reused
        return Scores(
            tuple(rewards),
            Usage(
                prefix=len(before),
                computed=computed + usage.generated,
                reused=usage.reused,
                generated=usage.generated,
                scored=min(computed, sum(len(one.ids) - one.prompt for one in asked)),
                seconds=time.perf_counter() - started,
            ),
        )

    def explain(self, path: Path, step: Step) -> Explanation:
        """What the server is sent for a step, and where the score is."""
        return self.layouts.explain(path, step)

    async def examine(self) -> list[Finding]:
        """What a server shows in some short requests, for `rsd doctor`. Nothing is raised: what fails is a finding."""
        try:
            server = await self.endpoint.run(learn(self.endpoint, PROFILES["vllm"], None))
        except (ConfigurationError, RunError) as error:
            return [Finding("reachable", False, str(error))]
        there = self.endpoint.model in server.models if server.models else None
        return [
            Finding("reachable", True, f"format {self.reader.format.name}, scores {self.reader.format.read}"),
            Finding("model", there, ", ".join(server.models[:8]) or "the server lists none"),
            *await self._try_out(),
        ]

    async def _try_out(self) -> list[Finding]:
        """Two candidates after a step, together and each alone: a reward for each, the same both ways."""
        try:
            together = (await self.score(_FIRST, [_RIGHT, _WRONG])).rewards
            alone = [(await self.score(_FIRST, [step])).rewards[0] for step in (_RIGHT, _WRONG)]
        except (ConfigurationError, RunError) as error:
            return [Finding("step rewards", False, str(error))]
        told = f"two candidates got {together} together, {tuple(alone)} one by one"
        return [Finding("step rewards", _alike(together, alone), told)]

    async def aclose(self) -> None:
        """Close the connections."""
        await self.endpoint.aclose()

    async def _rewards(self, asked: Sequence[Scored]) -> tuple[list[float], Usage]:
        """The rewards of all steps in order, and what the server reused and generated."""
        try:
            return await self._ask(asked)
        except Refused as error:
            if not error.overlong:
                raise
            raise VerifierError(
                f"{self.name}: {max(len(one.ids) for one in asked)} tokens to score, and the server takes no more than "
                f"its context: {error.told}. Limit the answer (limits.max_tokens), or give the server a longer context"
            ) from None

    @abstractmethod
    async def _ask(self, asked: Sequence[Scored]) -> tuple[list[float], Usage]:
        """The same, as the server answers."""


class PoolingVerifier(RewardServer):
    """A reward model behind vLLM's /pooling, which gives a row at each step's separator, or one at each token.

    Raises:
        ConfigurationError: The model of this format is none that /pooling could give rows of.
    """

    def __init__(self, endpoint: Endpoint, reader: Reader, flops_per_token: float | None = None) -> None:
        super().__init__(endpoint, reader, flops_per_token)
        form = reader.format
        heads = [head for head in form.heads if isinstance(head, Head)]
        if not heads:
            raise ConfigurationError(
                f"{self.name}: models of the format {form.name} judge by words, for which /pooling gives nothing or "
                f"hidden states. Serve it as a language model and use token_logits,format={form.name}:…"
            )
        if heads[0].ensemble:
            raise ConfigurationError(
                f"{self.name}: models of the format {form.name} have several heads, which no server reads. Load it in "
                "process: prm:…"
            )
        self._pair = heads[0].outputs == 2

    async def _ask(self, asked: Sequence[Scored]) -> tuple[list[float], Usage]:
        body = {
            "model": self.endpoint.model,
            "input": [one.ids for one in asked],
            # Servers differ in what they do by themselves. Of a pair the softmax is taken, as every version does, and
            # checked; of a value the plain one, since a sigmoid taken twice could not be told from one.
            "use_activation": self._pair,
        }

        def read(answer: Mapping[str, Any]) -> list[float]:
            _all_read(answer, asked)
            data = {entry["index"]: entry["data"] for entry in answer["data"]}
            return [self._reward(row) for i, one in enumerate(asked) for row in self._rows(data[i], one)]

        return await self.endpoint.post("/pooling", body, read), Usage()

    def _rows(self, rows: Sequence[Any], one: Scored) -> list[Sequence[float]]:
        """The rows of the steps: of one per token, or of one per separator."""
        if rows and not isinstance(rows[0], list):
            raise VerifierError(
                f"a vector of {len(rows)} numbers is no list of step rewards. The server runs the model as one of "
                "embeddings; start vLLM with --runner pooling and the model's own architecture in its config.json"
            )
        if len(rows) == len(one.ids):
            return [rows[at] for at in one.at]
        mark = one.ids[one.at[-1]]
        marks = [at for at, id_ in enumerate(one.ids) if id_ == mark]
        if len(rows) != len(marks):
            tag = json.dumps({"pooling_type": "STEP", "step_tag_id": mark})
            raise VerifierError(
                f"{len(rows)} rows for {len(marks)} steps. The server must give one at each token {mark}, where the "
                f"format {self.reader.format.name} is read: start vLLM with --runner pooling --pooler-config '{tag}', "
                "and check that tokenizer=… and format=… are the model's"
            )
        return [rows[marks.index(at)] for at in one.at]

    def _reward(self, row: Sequence[float]) -> float:
        """The probability that the step is right."""
        if len(row) != 1 + self._pair:
            raise VerifierError(
                f"rows of {len(row)} numbers, where the format {self.reader.format.name} has {1 + self._pair}. "
                "Is it the model's format?"
            )
        if not all(math.isfinite(value) for value in row):
            raise VerifierError(f"the row {list(row)} is no score; serve the model with --dtype bfloat16 or float32")
        if not self._pair:
            return _sigmoid(row[0])
        wrong, right = row
        if not (wrong >= 0 <= right and abs(wrong + right - 1) <= _ROUNDING):
            raise VerifierError(f"the row {list(row)} is no pair of probabilities; the server ignores use_activation")
        return min(1.0, right)


class PoolingRunVerifier(PoolingVerifier):
    """One whose format has all scores in the text itself, so that one reading gives the rewards of many steps."""

    async def score_run(self, path: Path, steps: Sequence[Step]) -> list[Scores]:
        """As `score` of one step after the other, in one request.

        Raises:
            VerifierError: As `score`; so do the others.
        """
        before, prompt = self.layouts.ids(path)
        ids, at, sizes = before, list[int](), list[int]()
        for step in steps:
            layout = self.layouts.step(path, step)
            at.append(len(ids) + layout.read[-1])
            ids, path = [*ids, *layout.feed], path.extend(step)
            sizes.append(len(layout.feed))
        started = time.perf_counter()
        rewards, _ = await self._rewards([Scored(tuple(ids), tuple(at), prompt)])
        shares = [Usage(computed=size, scored=size) for size in sizes]
        read, seconds = len(before), time.perf_counter() - started
        shares[0] += Usage(prefix=read, computed=read, scored=read - prompt, seconds=seconds)
        return [Scores((reward,), usage) for reward, usage in zip(rewards, shares, strict=True)]

    async def _try_out(self) -> list[Finding]:
        """Also two steps in one reading and each by itself: what follows a step must not change its reward."""
        found = await super()._try_out()
        if not found[-1].ok:
            return found
        try:
            run = [scores.rewards[0] for scores in await self.score_run(_FIRST, [_WRONG, _RIGHT])]
            alone = [*(await self.score(_FIRST, [_WRONG])).rewards]
            alone += (await self.score(_FIRST.extend(_WRONG), [_RIGHT])).rewards
        except (ConfigurationError, RunError) as error:
            return [*found, Finding("runs of steps", False, str(error))]
        told = f"two steps got {tuple(run)} in one reading, {tuple(alone)} one by one"
        return [*found, Finding("runs of steps", _alike(run, alone), told)]


class TokenLogitsVerifier(RewardServer):
    """A reward model that judges by words of its language model, behind /v1/completions with log-probabilities.

    Args:
        endpoint: The server and the model's name there.
        reader: The model's format, bound to its tokenizer.

    Raises:
        ConfigurationError: Models of this format have a head of their own.
    """

    def __init__(self, endpoint: Endpoint, reader: Reader, flops_per_token: float | None = None) -> None:
        super().__init__(endpoint, reader, flops_per_token)
        words = reader.words()
        if words is None:
            raise ConfigurationError(
                f"{self.name}: models of the format {reader.format.name} have a reward head, which completions do not "
                "show. Use pooling:… with a server that runs the head"
            )
        self._words = words

    async def _ask(self, asked: Sequence[Scored]) -> tuple[list[float], Usage]:
        body = {
            "model": self.endpoint.model,
            "prompt": [one.ids[: one.at[-1] + 1] for one in asked],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 1,
            "logprob_token_ids": self._words,
            "return_tokens_as_token_ids": True,
        }

        def read(answer: Mapping[str, Any]) -> tuple[list[float], Usage]:
            _all_read(answer, asked)
            choices = {choice["index"]: choice for choice in answer["choices"]}
            told = answer.get("usage") or {}
            usage = Usage(
                reused=(told.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
                generated=told.get("completion_tokens", len(asked)),
            )
            return [self._reward(choices[i]) for i in range(len(asked))], usage

        return await self.endpoint.post("completions", body, read)

    def _reward(self, choice: Mapping[str, Any]) -> float:
        """The probability of the word for right, of the two."""
        logprobs = ((choice["logprobs"] or {}).get("top_logprobs") or [{}])[0]
        right, wrong = (logprobs.get(f"token_id:{word}") for word in self._words)
        if right is None or wrong is None:
            raise VerifierError(
                f"no log-probabilities of the tokens {self._words}, which say right and wrong. The server must know "
                "logprob_token_ids, as vLLM does"
            )
        if math.isnan(right - wrong):
            raise VerifierError(f"log-probabilities {right} and {wrong} are no score; serve the model in bfloat16")
        return _sigmoid(right - wrong)


def _all_read(answer: Mapping[str, Any], asked: Sequence[Scored]) -> None:
    """Check that the server read what it was sent: some cut it without a word."""
    read = (answer.get("usage") or {}).get("prompt_tokens")
    sent = sum(len(one.ids) for one in asked)
    if read is not None and read != sent:
        raise VerifierError(f"the server read {read} of {sent} tokens; give it a longer context and no truncation")


def _alike(a: Sequence[float | None], b: Sequence[float | None]) -> bool:
    return all(abs((x or 0.0) - (y or 0.0)) < _ROUNDING for x, y in zip(a, b, strict=True))


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else 1 - 1 / (1 + math.exp(value))
