"""Reward models behind servers. They get token ids, so that nothing is tokenised twice."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from rsd_integrations.findings import Finding
from rsd_integrations.loaded_models import Resident
from rsd_integrations.openai_compatible.background import on_background_loop
from rsd_integrations.openai_compatible.charges import Charges, usage_in
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.errors import Refused
from rsd_integrations.openai_compatible.probe import find_listed
from rsd_integrations.openai_compatible.profiles import PROFILES
from rsd_integrations.openai_compatible.server import learn
from rsd_integrations.prm_formats import Head, Layouts, Reader, shown

_ROUNDING = 0.02
"""How far the sum of two probabilities may be from 1, since a server may compute them in bf16."""


_FIRST = Path(as_prompt("What is 1+2+3?")).extend(Step("First 1+2=3.\n\n", "delimiter"))
_RIGHT, _WRONG = Step("Then 3+3=6.\n\n", "delimiter"), Step("Then 3+3=7.\n\n", "delimiter")
"""Test input for a server."""
Charge = Callable[[Mapping[str, Any], object, float], None]


@dataclass(frozen=True, slots=True)
class Scored:
    """A text sent to a server to score its last steps."""

    ids: tuple[int, ...]
    at: tuple[int, ...]
    """Positions in `ids` where the scores are read, one per step."""
    prefix: int
    """How many ids come before the first of these steps."""
    prompt: int
    """How many ids are the prompt."""


class RewardServer(Resident, Verifier):
    """A reward model behind a URL. It gets the whole path with every step, and computes what it has not cached.

    Args:
        endpoint: The server and the model's name there.
        reader: The model's format, bound to its tokenizer.
        flops_per_token: Two per weight, for the ledger.
    """

    def __init__(self, endpoint: Endpoint, reader: Reader[Any], flops_per_token: float | None = None) -> None:
        self.name, self.flops_per_token = endpoint.model, flops_per_token
        self.endpoint, self.reader = endpoint, reader
        self.layouts = Layouts(reader)

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Probability that each candidate is correct, given the path.

        Raises:
            VerifierError: A step is blank or a bare thought marker, or path and step are longer than the server's
                context.
            EndpointError: The server failed, or returned rows that are not scores of these steps.
            Refused: The server does not accept such requests.
        """
        return await on_background_loop(self._score(path, steps))

    async def _score(self, path: Path, steps: Sequence[Step]) -> Scores:
        charges = Charges(self)
        with charges:
            before, prompt = self.layouts.ids(path)
            layouts = [self.layouts.step(path, step) for step in steps]
            texts = [
                Scored((*before, *layout.feed), (len(before) + layout.read[-1],), len(before), prompt)
                for layout in layouts
            ]
            return Scores(tuple(await self._rewards(texts, charges)), charges.total(len(before)))

    def explain(self, path: Path, step: Step) -> Explanation:
        """The input sent for a step, and where its score is read."""
        return self.layouts.explain(path, step)

    async def examine(self) -> list[Finding]:
        """Test a server with short requests, for `rsd doctor`. Failures are findings, not exceptions."""
        with self.endpoint.impatient():
            return await self._findings()

    async def _findings(self) -> list[Finding]:
        try:
            server = await on_background_loop(learn(self.endpoint, PROFILES["vllm"], None))
        except (ConfigurationError, RunError) as error:
            return [Finding("reachable", False, str(error))]
        return [
            Finding("reachable", True, f"format {self.reader.format.name}, scores {self.reader.format.read}"),
            find_listed(server, self.endpoint.model),
            *await self._try_out(),
        ]

    async def _try_out(self) -> list[Finding]:
        """Two candidates after a step get the same rewards together and separately."""
        try:
            together = (await self.score(_FIRST, [_RIGHT, _WRONG])).rewards
            alone = [(await self.score(_FIRST, [step])).rewards[0] for step in (_RIGHT, _WRONG)]
        except (ConfigurationError, RunError) as error:
            return [Finding("step rewards", False, str(error))]
        detail = f"two candidates got {together} together, {tuple(alone)} separately"
        return [Finding("step rewards", _alike(together, alone), detail)]

    async def aclose(self) -> None:
        """Close the connections."""
        await self.endpoint.aclose()

    async def _rewards(self, texts: Sequence[Scored], charges: Charges) -> list[float]:
        """The rewards of all steps in order."""

        def charge(reply: Mapping[str, Any], _rewards: object, seconds: float) -> None:
            usage, sent = usage_in(reply, seconds), sum(len(text.ids) for text in texts)
            if not usage.prefix:  # it does not report it; it read what it was sent
                usage = replace(usage, computed=max(0, sent - usage.reused) + usage.generated)
            answers = sum(len(text.ids) - text.prompt for text in texts)
            scored = min(usage.computed - usage.generated, answers)
            charges.add(replace(usage, prefix=texts[0].prefix, scored=scored))

        try:
            return await self._ask(texts, charge)
        except Refused as error:
            if not error.overlong:
                raise
            raise VerifierError(
                f"{self.name}: {max(len(text.ids) for text in texts)} tokens to score, more than the server's "
                f"context: {error.reason}. Limit the answer (limits.max_tokens), or give the server a longer context"
            ) from None

    @abstractmethod
    async def _ask(self, texts: Sequence[Scored], charge: Charge) -> list[float]:
        """The same, as the server answers."""


class PoolingVerifier(RewardServer):
    """A reward model behind vLLM's /pooling, which returns a row at each step's separator, or at each token.

    Raises:
        ConfigurationError: /pooling cannot return rows for models of this format.
    """

    def __init__(self, endpoint: Endpoint, reader: Reader[Any], flops_per_token: float | None = None) -> None:
        super().__init__(endpoint, reader, flops_per_token)
        form = reader.format
        heads = [head for head in form.heads if isinstance(head, Head)]
        if not heads:
            raise ConfigurationError(
                f"{self.name}: models of the format {form.name} judge by words, for which /pooling returns nothing "
                f"or hidden states. Serve it as a language model and use token_logits,format={form.name}:…"
            )
        if heads[0].ensemble:
            raise ConfigurationError(
                f"{self.name}: models of the format {form.name} have several heads, which no server supports. Load "
                "it in-process: prm:…"
            )
        self._pair = heads[0].outputs == 2

    async def _ask(self, texts: Sequence[Scored], charge: Charge) -> list[float]:
        body = {
            "model": self.endpoint.model,
            "input": [text.ids for text in texts],
            # Servers' defaults differ. For a pair the softmax is requested, as every version supports, and checked; for
            # a value the raw one, since a sigmoid applied twice would go unnoticed.
            "use_activation": self._pair,
        }

        def read(answer: Mapping[str, Any]) -> list[float]:
            _check_read(answer, texts)
            rows = {entry["index"]: entry["data"] for entry in answer["data"]}
            return [self._reward(row) for i, text in enumerate(texts) for row in self._rows(rows[i], text)]

        return await self.endpoint.post("/pooling", body, read, charge)

    def _rows(self, rows: Sequence[Any], text: Scored) -> list[Sequence[float]]:
        """The steps' rows, from one per token or one per separator."""
        if rows and not isinstance(rows[0], list):
            raise VerifierError(
                f"a vector of {len(rows)} numbers is not a list of step rewards. The server runs the model as an "
                "embedding model; start vLLM with --runner pooling and the model's own architecture in its "
                "config.json"
            )
        if len(rows) == len(text.ids):
            return [rows[at] for at in text.at]
        mark = text.ids[text.at[-1]]
        marks = [at for at, id_ in enumerate(text.ids) if id_ == mark]
        if len(rows) != len(marks):
            tag = json.dumps({"pooling_type": "STEP", "step_tag_id": mark})
            raise VerifierError(
                f"{len(rows)} rows for {len(marks)} steps. The server must return one at each token {mark}, where "
                f"the format {self.reader.format.name} is read: start vLLM with --runner pooling --pooler-config "
                f"'{tag}', and check that tokenizer=… and format=… are the model's"
            )
        return [rows[marks.index(at)] for at in text.at]

    def _reward(self, row: Sequence[float]) -> float:
        """The probability that the step is correct."""
        if len(row) != 1 + self._pair:
            raise VerifierError(
                f"rows of {len(row)} numbers, but the format {self.reader.format.name} has {1 + self._pair}. Is it "
                "the model's format?"
            )
        if not all(math.isfinite(value) for value in row):
            raise VerifierError(f"the row {list(row)} is not a score; serve the model with --dtype bfloat16 or float32")
        if not self._pair:
            return _sigmoid(row[0])
        wrong, right = row
        if not (wrong >= 0 <= right and abs(wrong + right - 1) <= _ROUNDING):
            raise VerifierError(f"the row {list(row)} is not two probabilities; the server ignores use_activation")
        return min(1.0, right)


class PoolingRunVerifier(PoolingVerifier):
    """For formats with all scores in the text itself, so that one prefill gives the rewards of many steps."""

    async def score_run(self, path: Path, steps: Sequence[Step]) -> list[Scores]:
        """Like `score` for each step in turn, in one request; a bare thought marker gets no reward.

        Raises:
            VerifierError: As in `score`, as are the other errors.
        """
        return await on_background_loop(self._score_run(path, steps))

    async def _score_run(self, path: Path, steps: Sequence[Step]) -> list[Scores]:
        charges = Charges(self)
        with charges:
            before, prompt = self.layouts.ids(path)
            ids, at, sizes, marks = before, list[int](), list[int](), list[bool]()
            for step in steps:
                marks.append(bool(step.text.strip()) and not shown(path, step))
                if not marks[-1]:
                    layout = self.layouts.step(path, step)
                    at.append(len(ids) + layout.read[-1])
                    ids = [*ids, *layout.feed]
                    sizes.append(len(layout.feed))
                path = path.extend(step)
            if not at:
                return [Scores((None,), Usage())] * len(steps)
            rewards = await self._rewards([Scored(tuple(ids), tuple(at), len(before), prompt)], charges)
            total, later = charges.total(), sum(sizes[1:])
            # The prefill before the first step belongs to it, as does the cost of failed attempts.
            computed, scored = max(0, total.computed - later), max(0, total.scored - later)
            first = replace(total, computed=computed, scored=scored, parts=())
            usages = [first, *(Usage(computed=size, scored=size) for size in sizes[1:])]
            judged = (Scores((reward,), usage) for reward, usage in zip(rewards, usages, strict=True))
            return [Scores((None,), Usage()) if mark else next(judged) for mark in marks]

    async def _try_out(self) -> list[Finding]:
        """Also two steps in one prefill and separately: what follows a step must not change its reward."""
        findings = await super()._try_out()
        if not findings[-1].ok:
            return findings
        try:
            run = [scores.rewards[0] for scores in await self.score_run(_FIRST, [_WRONG, _RIGHT])]
            alone = [*(await self.score(_FIRST, [_WRONG])).rewards]
            alone += (await self.score(_FIRST.extend(_WRONG), [_RIGHT])).rewards
        except (ConfigurationError, RunError) as error:
            return [*findings, Finding("runs of steps", False, str(error))]
        detail = f"two steps got {tuple(run)} in one prefill, {tuple(alone)} separately"
        return [*findings, Finding("runs of steps", _alike(run, alone), detail)]


class TokenLogitsVerifier(RewardServer):
    """A reward model that judges by words of its language model, behind /v1/completions with log-probabilities.

    Args:
        endpoint: The server and the model's name there.
        reader: The model's format, bound to its tokenizer.

    Raises:
        ConfigurationError: Models of this format have a separate head.
    """

    def __init__(self, endpoint: Endpoint, reader: Reader[Any], flops_per_token: float | None = None) -> None:
        super().__init__(endpoint, reader, flops_per_token)
        words = reader.words()
        if words is None:
            raise ConfigurationError(
                f"{self.name}: models of the format {reader.format.name} have a reward head, which completions do "
                "not expose. Use pooling:… with a server that runs the head"
            )
        self._words = words

    async def _ask(self, texts: Sequence[Scored], charge: Charge) -> list[float]:
        body = {
            "model": self.endpoint.model,
            "prompt": [text.ids[: text.at[-1] + 1] for text in texts],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 1,
            "logprob_token_ids": self._words,
            "return_tokens_as_token_ids": True,
        }

        def read(answer: Mapping[str, Any]) -> list[float]:
            _check_read(answer, texts)
            choices = {choice["index"]: choice for choice in answer["choices"]}
            return [self._reward(choices[i]) for i in range(len(texts))]

        return await self.endpoint.post("completions", body, read, charge)

    def _reward(self, choice: Mapping[str, Any]) -> float:
        """The probability of the word for right among the two."""
        logprobs = ((choice["logprobs"] or {}).get("top_logprobs") or [{}])[0]
        right, wrong = (logprobs.get(f"token_id:{word}") for word in self._words)
        if right is None or wrong is None:
            raise VerifierError(
                f"no log-probabilities of the tokens {self._words}, the words for right and wrong. The server must "
                "support logprob_token_ids, as vLLM does"
            )
        if math.isnan(right - wrong):
            raise VerifierError(f"log-probabilities {right} and {wrong} are not a score; serve the model in bfloat16")
        return _sigmoid(right - wrong)


def _check_read(answer: Mapping[str, Any], texts: Sequence[Scored]) -> None:
    """Check that the server read everything it was sent: some truncate silently."""
    read = (answer.get("usage") or {}).get("prompt_tokens")
    sent = sum(len(text.ids) for text in texts)
    if read is not None and read != sent:
        raise VerifierError(f"the server read {read} of {sent} tokens; give it a longer context and no truncation")


def _alike(a: Sequence[float | None], b: Sequence[float | None]) -> bool:
    return all(abs((x or 0.0) - (y or 0.0)) < _ROUNDING for x, y in zip(a, b, strict=True))


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else 1 - 1 / (1 + math.exp(value))
