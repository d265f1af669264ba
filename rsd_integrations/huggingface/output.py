"""Outputs of a torch model at some positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from rsd_integrations.inprocess.calls import Output


class TorchOutput(Output):
    """Tensors on the model's device."""

    hidden: Tensor | None
    logits: Tensor | None

    def last(self) -> Self:
        return self._map(lambda tensor: tensor[-1:].clone())

    def joined(self, others: Sequence[Self]) -> Self:
        hidden = [one.hidden for one in (self, *others) if one.hidden is not None]
        logits = [one.logits for one in (self, *others) if one.logits is not None]
        return type(self)(torch.cat(hidden) if hidden else None, torch.cat(logits) if logits else None)

    def log_likelihoods(self, ids: Sequence[int]) -> list[float]:
        logprobs = self._logprobs
        chosen = torch.tensor(ids, dtype=torch.long, device=logprobs.device)
        values: list[float] = logprobs.gather(1, chosen[:, None]).squeeze(1).tolist()
        return values

    def entropies(self) -> list[float]:
        values: list[float] = torch.special.entr(self._logprobs.exp()).sum(-1).tolist()
        return values

    def log_probabilities(self, ids: Sequence[int]) -> list[float]:
        assert self.logits is not None
        values: list[float] = self.logits[-1].float().log_softmax(-1)[list(ids)].tolist()
        return values

    @property
    def _logprobs(self) -> Tensor:
        assert self.logits is not None
        return self.logits.float().log_softmax(-1)
