"""The context length of a model."""

from __future__ import annotations

from rsd_core import ConfigurationError


def context_of(config: object) -> int:
    """Maximum sequence length, in tokens, of a model with this configuration.

    If rotary embeddings change with the longest sequence in a batch, the limit is the length up to which they do not,
    so that no sequence depends on its neighbours.

    Raises:
        ConfigurationError: The configuration does not state it.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings")
    longest: int | None = getattr(config, "max_position_embeddings", None)
    if longest is None:
        raise ConfigurationError(f"{type(config).__name__} has no max_position_embeddings, the maximum sequence length")
    return min(longest, original) if original and rope.get("rope_type") in ("dynamic", "longrope") else longest
