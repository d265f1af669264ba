"""In-process language models: the common base of drafters, targets and likelihood verifiers of every library."""

from __future__ import annotations

from rsd_integrations.inprocess.runner import Runner
from rsd_integrations.inprocess.vocabulary import Vocabulary
from rsd_integrations.loaded_models import Resident


class LanguageModel(Resident):
    """A causal language model with its vocabulary and runner.

    Calls from all threads and event loops share its forward passes: models loaded with the same options share a runner.
    """

    def __init__(
        self, runner: Runner, vocabulary: Vocabulary, eos_ids: frozenset[int], flops_per_token: float, name: str
    ) -> None:
        """Take over a model.

        Args:
            runner: Its runner.
            vocabulary: Its tokenizer, wrapped for the decoder.
            eos_ids: All ids that end an answer.
            flops_per_token: Two for each multiplied weight.
            name: Display name.
        """
        self.runner, self.vocabulary, self.eos_ids, self.name = runner, vocabulary, eos_ids, name
        self.flops_per_token: float | None = flops_per_token
        self.dtype = runner.dtype
        self.context = runner.context
        """Maximum sequence length in tokens."""
