"""The reward head of a checkpoint, by names and shapes; backends read its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rsd_core import ConfigurationError
from rsd_integrations.prm_formats.formats import Head, PRMFormat

Shapes = Mapping[str, tuple[int, ...]]
_BODY = ("model.", "layers.", "lm_head.", "embed_tokens")


def tensor_name(layer: str, part: str) -> str:
    """The name of a layer's tensor; the single layer of a separate file has no name."""
    return f"{layer}.{part}" if layer else part


def fits(head: Head, tensors: Shapes) -> bool:
    """Whether a checkpoint contains this head: all of its tensors, with the right number of outputs."""
    if head.file is not None:
        return head.file in tensors
    parts = ("weight", "bias") if head.bias else ("weight",)
    if not all(tensor_name(layer, part) in tensors for layer in head.layers for part in parts):
        return False
    shape = tensors[tensor_name(head.layers[-1], "weight")]
    return (len(shape) == 3 and shape[2] == head.outputs) if head.ensemble else shape[0] == head.outputs


def separate_files(folder: Path) -> dict[str, tuple[int, ...]]:
    """Files of a checkpoint that may contain a separate head, by name and without a shape."""
    return {file.stem: () for ending in ("pt", "safetensors") for file in folder.glob(f"*.{ending}")}


def find_head(form: PRMFormat, tensors: Shapes, model: str) -> Head:
    """The head of a format that a checkpoint contains.

    Args:
        form: The format, which must have a separate head.
        tensors: As in `find_format`, including `separate_files`.
        model: For the message.

    Raises:
        ConfigurationError: It contains none.
    """
    heads = [head for head in form.heads if isinstance(head, Head)]
    for head in heads:
        if fits(head, tensors):
            return head
    expected = " or ".join(head.file or ", ".join(head.layers) for head in heads)
    others = [name for name, shape in tensors.items() if shape and not name.startswith(_BODY)]
    raise ConfigurationError(
        f"{model}: the reward head of the format {form.name} ({expected}) is missing from its weights, or has "
        "another shape; a random head would score randomly. Besides the body they contain: "
        f"{', '.join(others[:8]) or 'nothing'}. Is the download complete, and is this the model's format?"
    )


def check_widths(head: Head, tensors: Shapes, width: int, model: str) -> None:
    """Check that a head's input matches the body's output, and each layer's the previous layer's.

    Args:
        head: The head.
        tensors: Shapes of its tensors.
        width: Width of the body's hidden states.
        model: For the message.

    Raises:
        ConfigurationError: They do not match.
    """
    before = "the body"
    for layer in head.layers:
        name = tensor_name(layer, "weight")
        shape = tensors[name]
        if len(shape) != 2 + head.ensemble or shape[1] != width:
            raise ConfigurationError(
                f"{model}: {name} of its reward head has the shape {list(shape)} but must accept the {width} outputs "
                f"of {before}; head and body belong to different models"
            )
        width, before = shape[2] if head.ensemble else shape[0], name
