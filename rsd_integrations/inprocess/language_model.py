"""A language model in process: what drafters, targets and likelihood verifiers of every library share."""

from __future__ import annotations

from rsd_integrations.inprocess.runner import Runner
from rsd_integrations.inprocess.vocabulary import Vocabulary
from rsd_integrations.loaded_models import Resident


class LanguageModel(Resident):
    """A causal language model with its vocabulary and its runner.

    Calls of any threads and event loops share its forward passes: all who load a model alike share its runner.
    """

    def __init__(
        self, runner: Runner, vocabulary: Vocabulary, eos_ids: frozenset[int], flops_per_token: float, name: str
    ) -> None:
        """Take over a model.

        Args:
            runner: What runs it.
            vocabulary: Its tokenizer, as the decoder needs it.
            eos_ids: Every id that ends an answer.
            flops_per_token: Two for each weight that multiplies.
            name: Shown to people.
        """
        self.runner, self.vocabulary, self.eos_ids, self.name = runner, vocabulary, eos_ids, name
        self.flops_per_token: float | None = flops_per_token
        self.dtype = runner.dtype
        self.context = runner.context
        """Longest sequence in tokens."""
