"""The longest sequence that a model reads."""

from __future__ import annotations

from rsd_core import ConfigurationError


def context_of(config: object) -> int:
    """Longest sequence that a model of this configuration reads, in tokens.

    Rotary embeddings that change with the length of the longest sequence in a batch are held to the length up to
    which they do not, so that no sequence depends on its neighbours.

    Raises:
        ConfigurationError: The configuration does not say.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings")
    longest: int | None = getattr(config, "max_position_embeddings", None)
    if longest is None:
        raise ConfigurationError(f"{type(config).__name__} names no max_position_embeddings, the longest sequence")
    return min(longest, original) if original and rope.get("rope_type") in ("dynamic", "longrope") else longest
