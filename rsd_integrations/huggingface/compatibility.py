"""Checks that a model can run in batches in process: the attention its layers need, and whether results agree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rsd_core import ConfigurationError
from rsd_integrations.huggingface.attention import Survey

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE_IDS = [0, 1, 2, 3]
"""Ids that exist in every vocabulary."""


def plain_output(model: PreTrainedModel, **options: Any) -> Tensor:
    """The output at the probe's last token in a plain forward pass of the model itself."""
    output: Any = model(input_ids=torch.tensor([PROBE_IDS], device=model.device), use_cache=False, **options)
    last: Tensor = output.logits[:, -1] if "logits" in output else output.last_hidden_state[:, -1]
    return last


def close(output: Tensor, expected: Tensor) -> bool:
    """Whether two results, of any dtype, differ only by rounding."""
    output, expected = output.float(), expected.float()
    return torch.allclose(output, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))


def survey_attention(model: PreTrainedModel) -> Survey:
    """The attention options of each layer.

    Raises:
        ValueError: A layer has something other than attention, which could not be rolled back, or an unsupported kind
            of attention.
    """
    survey = Survey()
    plain_output(model, batch=survey)
    count = model.config.num_hidden_layers
    if sorted(survey.shapes) != list(range(count)):
        raise ValueError(f"only {len(survey.shapes)} of its {count} layers have transformers' attention")
    for layer, kind in enumerate(getattr(model.config, "layer_types", None) or []):
        windowed = survey.windows[layer] is not None
        if kind not in ("full_attention", "sliding_attention") or (kind == "sliding_attention" and not windowed):
            raise ValueError(f"its layer {layer} has {kind}, which is not supported here")
    return survey


@contextmanager
def explained(model: PreTrainedModel) -> Iterator[None]:
    """Explain a model's failure in its first forward pass."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise ConfigurationError(
            f"{type(model).__name__} cannot run in process: {error}. Serve it, and use it as openai:MODEL@URL"
        ) from error
