"""A verifier without reward training: how likely a language model finds a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import exp, isnan, nan
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from rsd_core import ConfigurationError, Explanation, Path, Scores, Step, Verifier, VerifierError
from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.bare_model import BareModel
from rsd_integrations.huggingface.calls import Output
from rsd_integrations.huggingface.causal_lm import CausalLM
from rsd_integrations.huggingface.chat_template import chat_template
from rsd_integrations.huggingface.checks import check_rewards, check_scored
from rsd_integrations.huggingface.engine import engine_of
from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from rsd_integrations.huggingface.marks import Marks
from rsd_integrations.huggingface.score_call import ScoreCall
from rsd_integrations.prm_formats import Layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rsd_integrations.huggingface.bare_tokenizer import BareTokenizer

How = Literal["min", "mean", "entropy"]


def likelihoods(logits: Tensor, tokens: Tensor, how: How) -> Tensor:
    """For each token of some steps, its log-probability; for `entropy`, minus the entropy of the choice, in nats.

    Args:
        logits: [tokens, vocabulary], from which each token was to be chosen.
        tokens: The ids that were.
        how: `min` takes the least probability of a step, `mean` the geometric mean, and `entropy` says how sure the
            model was, whatever was chosen: exp(-H), with H the mean entropy.
    """
    logprobs = logits.float().log_softmax(-1)
    if how == "entropy":
        return (logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(1, tokens[:, None]).squeeze(1)


class LikelihoodVerifier(CausalLM, Verifier):
    """Scores a step by its likelihood under a causal language model: by default, that of its least likely token.

    This is no trained process reward model: it says what its language model would not have written. It suits tasks
    with little freedom of wording, where an unlikely token is a mistake. The model may be the target, which then says
    whether it would have written the step, or any other. Markers of thoughts are read by models that know them, and
    never judged.
    """

    def __init__(
        self,
        model: PreTrainedModel | BareModel,
        tokenizer: PreTrainedTokenizerBase | BareTokenizer,
        name: str,
        how: How = "min",
        cache_bytes: float | None = None,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        if how not in ("min", "mean", "entropy"):
            raise ConfigurationError(f"how={how!r} is unknown; choose min, mean or entropy")
        self.how: How = how
        super().__init__(model, tokenizer, name, cache_bytes, template)
        self._marks = Marks(self.vocabulary)

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Likelihood of each candidate, given the path.

        Raises:
            PromptError: The prompt alone fills the model's context.
            VerifierError: A step is blank, or a marker alone; path and step are longer than the context; or the score
                is no number.
        """
        prefix, prompt = self._marks.ids(path)
        layouts = [self._layout(path, step) for step in steps]
        check_scored(prompt, len(prefix) + max(len(layout.feed) for layout in layouts), self.context, self.name)
        call = ScoreCall(path, self.runner.cache, prefix, prompt, layouts, self._rewards)
        return check_rewards(await engine_of(self.runner.device).run(self.runner, call), self.name)

    def explain(self, path: Path, step: Step) -> Explanation:
        """What is read for a step. The score is read where its tokens are chosen, each one place before the token."""
        before, layout = self._marks.ids(path)[0], self._layout(path, step)
        ids = [*before, *layout.feed]
        tokenizer = self.vocabulary.tokenizer
        names: Any = tokenizer.convert_ids_to_tokens(ids)
        read = tuple(len(before) + offset for offset in layout.read[:-1])
        return Explanation(str(tokenizer.decode(ids)), tuple(zip(ids, names, strict=True)), read, len(ids))

    def _layout(self, path: Path, step: Step) -> Layout:
        """What a model gives at a token is its opinion on the next; the last one's is of use to the next step."""
        ids, judged = self._marks.step(path, step)
        if not any(judged):
            raise VerifierError(f"{self.name}: the step {step.text!r} holds no token that could be judged")
        return Layout(tuple(ids), read=(*(at - 1 for at, is_judged in enumerate(judged) if is_judged), len(ids) - 1))

    def _rewards(self, candidates: Sequence[tuple[Output, Layout]]) -> list[float]:
        logits = torch.cat([output.logits[:-1] for output, _ in candidates if output.logits is not None])
        tokens = torch.tensor(
            [layout.feed[at + 1] for _, layout in candidates for at in layout.read[:-1]], device=logits.device
        )
        values = likelihoods(logits, tokens, self.how).tolist()
        sizes = [len(layout.read) - 1 for _, layout in candidates]
        spans = [values[end - size : end] for end, size in zip(accumulate(sizes), sizes, strict=True)]
        fold = min if self.how == "min" else fmean
        # The logarithms of probabilities, or negative entropies; rounding may put them above 0. A NaN is not to be lost
        # in a minimum.
        return [nan if any(map(isnan, span)) else min(1.0, exp(fold(span))) for span in spans]


def load_likelihood(
    model: str,
    *,
    how: How = "min",
    dtype: str | None = None,
    device: str | None = None,
    allow_pickles: bool = False,
    cache_bytes: float | None = None,
    template: Mapping[str, Any] | None = None,
) -> LikelihoodVerifier:
    """Load a causal language model as likelihood verifier; arguments and errors as in `load_generator`.

    `how` is that of `likelihoods`.
    """
    where, kind = loading.choose_device(device), loading.named_dtype(dtype)
    folder = loading.find(model, allow_pickles)
    files = loading.shards(folder, model, allow_pickles)
    kind = kind or loading.default_dtype(where, files)
    tokenizer = load_tokenizer(folder)
    chat_template(tokenizer, template)  # refuses what it does not take, before the weights are read
    weights = loading.load_causal_lm(folder, kind, where, allow_pickles)
    return LikelihoodVerifier(weights, tokenizer, model, how, cache_bytes, template)
