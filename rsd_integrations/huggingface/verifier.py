"""Reward models with a body from transformers and a separate head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rsd_core import Path
from rsd_integrations.huggingface import deferring, loading
from rsd_integrations.huggingface.deferring import DeferringCall, DeferringRunner
from rsd_integrations.huggingface.early_exit import Exits
from rsd_integrations.huggingface.heads import RewardHead
from rsd_integrations.huggingface.runner import TorchRunner
from rsd_integrations.inprocess.engine import threads_for
from rsd_integrations.inprocess.reward_verifier import RewardVerifier
from rsd_integrations.inprocess.score_call import ScoreCall
from rsd_integrations.inprocess.vocabulary import Vocabulary
from rsd_integrations.prm_formats import Layout, Reader

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class HuggingFaceVerifier(RewardVerifier):
    """A reward model of the transformers library. The body runs in its own dtype, the head in fp32."""

    runner: TorchRunner

    def __init__(
        self,
        body: PreTrainedModel,
        head: RewardHead,
        tokenizer: PreTrainedTokenizerBase,
        reader: Reader[Any],
        name: str,
        cache_bytes: float | None = None,
        exits: Exits | None = None,
    ) -> None:
        self.body, self.head, self.exits = body, head, exits
        self.threshold = None if exits is None else exits.rule.threshold
        self.vocabulary = Vocabulary(tokenizer, body.config.vocab_size)
        flops = loading.flops_per_token(body, head)
        threads = threads_for(flops)
        if exits is None:
            runner = TorchRunner.of(body, threads=threads, budget=cache_bytes)
            super().__init__(runner, head.rewards, reader, flops, name)
        else:  # with a separate cache, since other users of the same body do not defer
            runner = DeferringRunner(body, head, exits, threads=threads, budget=cache_bytes)
            super().__init__(runner, deferring.rewards, reader, flops, name)

    @property
    def layers_share(self) -> float:
        """Layers computed so far as a share of full passes, in (0, 1], including deferred tokens that went deeper."""
        return self.runner.layers_share if isinstance(self.runner, DeferringRunner) else 1.0

    def _call(self, path: Path, prefix: list[int], prompt: int, layouts: Sequence[Layout]) -> ScoreCall:
        if isinstance(self.runner, DeferringRunner):
            return DeferringCall(
                path, self.cache, prefix, prompt, layouts, self._rewards, model=self, depth=self.runner.depth
            )
        return super()._call(path, prefix, prompt, layouts)
