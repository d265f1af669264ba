"""How likely a language model finds given steps, through the caches and batches of step generation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsd_core import Likelihoods, Path, PromptError, Step
from rsd_integrations.huggingface.calls import Output
from rsd_integrations.huggingface.causal_lm import CausalLM
from rsd_integrations.huggingface.engine import engine_of
from rsd_integrations.huggingface.score_call import ScoreCall
from rsd_integrations.prm_formats import Layout


class LogLikelihoods(CausalLM):
    """The ability `HasLikelihood` of a language model."""

    async def log_likelihoods(self, path: Path, steps: Sequence[Step]) -> Likelihoods:
        """Log-probability of each step after the path, the end of the answer included where the step ends it.

        Raises:
            PromptError: Path and step are longer than the model's context.
        """
        prefix, prompt = self.vocabulary.ids(path)
        step_ids = [tuple(self.vocabulary.step(step)) for step in steps]
        if (longest := len(prefix) + max(map(len, step_ids))) > self.context:
            raise PromptError(f"{longest} tokens to read, the context of {self.name} is {self.context}")
        # Every token is predicted by the one before it, the first by the last of the path; what the model gives at a
        # step's last token predicts the end of the answer.
        layouts = [Layout(ids, read=tuple(range(-1, len(ids)))) for ids in step_ids]
        ended = {id(layout) for layout, step in zip(layouts, steps, strict=True) if step.ending == "end"}

        def rewards(candidates: Sequence[tuple[Output, Layout]]) -> list[float]:
            return [self._log_likelihood(output, layout, id(layout) in ended) for output, layout in candidates]

        call = ScoreCall(path, self.runner.cache, prefix, prompt, layouts, rewards)
        scores = await engine_of(self.runner.device).run(self.runner, call)
        return Likelihoods(tuple(value or 0.0 for value in scores.rewards), scores.usage)

    def _log_likelihood(self, output: Output, layout: Layout, ended: bool) -> float:
        assert output.logits is not None
        logprobs = output.logits.float().log_softmax(-1)
        tokens = torch.tensor(layout.feed, dtype=torch.long, device=logprobs.device)
        value = float(logprobs[:-1].gather(1, tokens[:, None]).sum())
        if ended and self.eos_ids:
            value += float(logprobs[-1, sorted(self.eos_ids)].logsumexp(0))
        return value
