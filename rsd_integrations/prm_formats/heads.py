"""The reward head of a checkpoint, by names and shapes; its numbers are read by whoever computes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rsd_core import ConfigurationError
from rsd_integrations.prm_formats.formats import Head, PRMFormat

Shapes = Mapping[str, tuple[int, ...]]
_BODY = ("model.", "layers.", "lm_head.", "embed_tokens")


def tensor_name(layer: str, part: str) -> str:
    """The name of a layer's tensor; the one layer of a file of its own has no name."""
    return f"{layer}.{part}" if layer else part


def fits(head: Head, tensors: Shapes) -> bool:
    """Whether a checkpoint holds this head: all of its tensors, with as many outputs as it should have."""
    if head.file is not None:
        return head.file in tensors
    parts = ("weight", "bias") if head.bias else ("weight",)
    if not all(tensor_name(layer, part) in tensors for layer in head.layers for part in parts):
        return False
    shape = tensors[tensor_name(head.layers[-1], "weight")]
    return (len(shape) == 3 and shape[2] == head.outputs) if head.ensemble else shape[0] == head.outputs


def separate_files(folder: Path) -> dict[str, tuple[int, ...]]:
    """Files of a checkpoint in which a head may lie apart, by name and without a shape."""
    return {file.stem: () for ending in ("pt", "safetensors") for file in folder.glob(f"*.{ending}")}


def find_head(form: PRMFormat, tensors: Shapes, model: str) -> Head:
    """The head of a format that a checkpoint holds.

    Args:
        form: The format, one with a head of its own.
        tensors: As in `find_format`, `separate_files` included.
        model: For the message.

    Raises:
        ConfigurationError: It holds none.
    """
    heads = [head for head in form.heads if isinstance(head, Head)]
    for head in heads:
        if fits(head, tensors):
            return head
    expected = " or ".join(head.file or ", ".join(head.layers) for head in heads)
    others = [name for name, shape in tensors.items() if shape and not name.startswith(_BODY)]
    raise ConfigurationError(
        f"{model}: the reward head of the format {form.name} ({expected}) is missing from its weights, or has "
        f"another shape; a random one would score at random. Beside the body they hold: "
        f"{', '.join(others[:8]) or 'nothing'}. Is the download complete, and is this the model's format?"
    )


def check_widths(head: Head, tensors: Shapes, width: int, model: str) -> None:
    """Check that a head takes what a body gives, and each of its layers what the one before gives.

    Args:
        head: The head.
        tensors: Shapes of its tensors.
        width: Of the body's hidden states.
        model: For the message.

    Raises:
        ConfigurationError: It does not.
    """
    before = "the body"
    for layer in head.layers:
        name = tensor_name(layer, "weight")
        shape = tensors[name]
        if len(shape) != 2 + head.ensemble or shape[1] != width:
            raise ConfigurationError(
                f"{model}: {name} of its reward head has the shape {list(shape)} and would have to take the {width} "
                f"numbers that {before} gives; head and body are of different models"
            )
        width, before = shape[2] if head.ensemble else shape[0], name
