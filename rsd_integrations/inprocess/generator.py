"""In-process language models as drafter and target."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from math import exp, fsum, log
from typing import Any, Self

from rsd_core import (
    ConfigurationError,
    Drafter,
    Entropy,
    Generation,
    Likelihoods,
    Message,
    NextWord,
    Path,
    Prompt,
    PromptError,
    Step,
    StepRequest,
    Target,
    Thinking,
    Usage,
)
from rsd_integrations.chat_fields import FORM, TOOL_FIELDS, TakesFields, refuse, schema_of
from rsd_integrations.inprocess.calls import Output
from rsd_integrations.inprocess.checks import check_prompt
from rsd_integrations.inprocess.engine import run
from rsd_integrations.inprocess.generate_call import GenerateCall
from rsd_integrations.inprocess.grammar import Grammar, grammar_of
from rsd_integrations.inprocess.language_model import LanguageModel
from rsd_integrations.inprocess.runner import Runner
from rsd_integrations.inprocess.score_call import ScoreCall
from rsd_integrations.inprocess.step_end import StepEnd
from rsd_integrations.inprocess.vocabulary import Vocabulary
from rsd_integrations.prm_formats import Layout


class Generator(TakesFields, LanguageModel, Drafter, Target):
    """A causal language model that generates steps.

    Keys and values of accepted steps stay cached for each path, so that every token is computed once. Calls from all
    threads and event loops share its forward passes. Decoding is greedy, or with temperature, top-k and top-p and each
    step's own random numbers; a checkpoint's sampling defaults are not used.
    """

    grammar: Grammar | None = None
    """The allowed text, if a request asks for JSON by a schema."""

    def __init__(
        self, runner: Runner, vocabulary: Vocabulary, eos_ids: frozenset[int], flops_per_token: float, name: str
    ) -> None:
        super().__init__(runner, vocabulary, eos_ids, flops_per_token, name)
        self.renders_tools = vocabulary.renders_tools

    @property
    def writes_json(self) -> bool:
        """True: it decodes under a grammar."""
        return True

    def thinking(self, prompt: Prompt) -> Thinking | None:
        """How the model thinks before it answers the prompt, according to its chat template."""
        return self.vocabulary.thinking(prompt)

    def _with(self, fields: dict[str, Any]) -> Self:
        """A copy with chat template arguments and a grammar; cached sequences are still found by their tokens."""
        refuse(
            self,
            {name: fields.pop(name) for name in TOOL_FIELDS if name in fields},
            "it generates text, from which calls are parsed; omit the field, or use a chat model behind a URL with "
            "granularity='turn'",
        )
        other = copy.copy(self)
        if FORM in fields:
            schema = schema_of(fields.pop(FORM))
            other.grammar = None if schema is None else grammar_of(schema, self.vocabulary, self.eos_ids, self.name)
        try:
            other.vocabulary = self.vocabulary.with_fields(fields)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.name}: {error}") from error
        return other

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        """Generate the step that follows the path, once per seed.

        Raises:
            PromptError: The prompt alone fills the model's context.
            ConfigurationError: A single step is requested, but a grammar describes the whole answer.
        """
        if self.grammar is not None and request.delimiter is not None:
            raise ConfigurationError(
                f"{self.name} was asked for JSON by a schema, which is generated in one piece: use granularity='turn', "
                "or a decoder that generates it after the steps (StructuredDecoder)"
            )
        ids, prompt = self.vocabulary.ids(path, goes_on=True)
        check_prompt(prompt, self.context, self.name)
        max_tokens = min(request.max_tokens, self.context - len(ids))
        if max_tokens <= 0:
            return Generation((Step("", "length"),) * len(request.seeds), Usage(len(ids)))
        guess: Sequence[int] = ()
        if request.guess is not None and len(request.seeds) == 1 and self.grammar is None:
            guess = self.vocabulary.ids.guess(path, request.guess)
        end = StepEnd(self.vocabulary.of(path), self.eos_ids, request.splitter, self.vocabulary.ids.begun(path))
        return await self._write(path, ids, request, max_tokens, end, guess[: max_tokens - 1])

    async def _write(
        self, path: Path, ids: list[int], request: StepRequest, max_tokens: int, end: StepEnd, guess: Sequence[int]
    ) -> Generation:
        """Run the call that generates the step."""
        call = GenerateCall(path, self.runner.cache, ids, request, max_tokens, end, guess, self.grammar)
        return await run(self.runner, call)

    async def first_token_entropy(self, path: Path) -> Entropy:
        """Entropy of the token that follows the path; 0 if the context is full.

        The path stays cached, with its last output, from which a draft continues.

        Raises:
            PromptError: The prompt alone fills the model's context.
        """
        ids, prompt = self.vocabulary.ids(path, goes_on=True)
        check_prompt(prompt, self.context, self.name)
        if len(ids) >= self.context:
            return Entropy(0.0, Usage(len(ids)))
        nats: list[float] = []

        def note(candidates: Sequence[tuple[Output, Layout]]) -> list[float]:
            ((output, _),) = candidates
            nats.append(max(0.0, output.entropies()[-1]))
            return [0.0]

        call = ScoreCall(path, self.runner.cache, ids, prompt, [Layout((), read=(-1,))], note)
        scores = await run(self.runner, call)
        return Entropy(nats[0], replace(scores.usage, scored=0))

    async def next_word(self, path: Path, words: Sequence[str], after: Sequence[Message] = ()) -> NextWord:
        """Log-probabilities of words as the next text; the path stays cached.

        Raises:
            PromptError: The input is longer than the context.
            ConfigurationError: Two words begin with the same token, or one joins with the text before it.
        """
        ids, prompt = self.vocabulary.asked(path, after)
        if len(ids) > self.context:
            raise PromptError(f"{len(ids)} tokens to read, the context of {self.name} is {self.context}")
        firsts = self.vocabulary.of(path).first_tokens(ids[-1], words)
        logprobs: list[float] = []

        def note(candidates: Sequence[tuple[Output, Layout]]) -> list[float]:
            ((output, _),) = candidates
            logprobs.extend(output.log_probabilities(firsts))
            return [0.0]

        # A judged step may be rejected with its path; the path before it stays, and its cache serves later steps.
        layout = Layout((ids[-1],), read=(0,))
        call = ScoreCall(path.parent or path, self.runner.cache, ids[:-1], prompt, [layout], note)
        scores = await run(self.runner, call)
        return NextWord(tuple(logprobs), scores.usage)

    async def log_likelihoods(self, path: Path, steps: Sequence[Step]) -> Likelihoods:
        """Log-probability of each step after the path, including the end of the answer if the step ends it.

        Raises:
            PromptError: Path and step are longer than the model's context.
        """
        read = self.vocabulary.ids.after(path, steps)
        if (longest := len(read.prefix) + max(map(len, read.feeds))) > self.context:
            raise PromptError(f"{longest} tokens to read, the context of {self.name} is {self.context}")
        # Every token is predicted by the one before it, the first by the last of the path; the output at a step's last
        # token predicts the end of the answer.
        layouts = [
            Layout(ids, read=tuple(range(len(ids) - own - 1, len(ids))))
            for ids, own in zip(read.feeds, read.own, strict=True)
        ]
        ended = {id(layout) for layout, step in zip(layouts, steps, strict=True) if step.ending == "end"}

        def rewards(candidates: Sequence[tuple[Output, Layout]]) -> list[float]:
            return [self._log_likelihood(output, layout, id(layout) in ended) for output, layout in candidates]

        call = ScoreCall(path, self.runner.cache, read.prefix, read.prompt, layouts, rewards)
        scores = await run(self.runner, call)
        return Likelihoods(tuple(value or 0.0 for value in scores.rewards), scores.usage)

    def _log_likelihood(self, output: Output, layout: Layout, ended: bool) -> float:
        own = layout.feed[len(layout.feed) + 1 - len(layout.read) :]
        value = fsum(output.part(0, len(own)).log_likelihoods(own)) if own else 0.0
        if ended and self.eos_ids:
            value += log(fsum(map(exp, output.log_probabilities(sorted(self.eos_ids)))))
        return value
