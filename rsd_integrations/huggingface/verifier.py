"""Reward models with a body of transformers and a head of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.heads import RewardHead
from rsd_integrations.huggingface.runner import TorchRunner
from rsd_integrations.inprocess.engine import threads_for
from rsd_integrations.inprocess.reward_verifier import RewardVerifier
from rsd_integrations.inprocess.vocabulary import Vocabulary
from rsd_integrations.prm_formats import Reader

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
    ) -> None:
        self.body, self.head = body, head
        self.vocabulary = Vocabulary(tokenizer, body.config.vocab_size)
        flops = loading.flops_per_token(body, head)
        runner = TorchRunner.of(body, threads=threads_for(flops), budget=cache_bytes)
        super().__init__(runner, head.rewards, reader, flops, name)
