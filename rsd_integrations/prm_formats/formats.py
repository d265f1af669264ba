"""The formats known so far."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rsd_core import ConfigurationError, Message, Prompt


@dataclass(frozen=True, slots=True)
class PRMFormat:
    """The input layout and the head of one kind of discriminative process reward model.

    The model reads the chat-templated prompt with the assistant's turn open, then every step followed by the
    separator; a step's score is read at its separator. Nothing closes the turn, so that reading can go on.
    """

    name: str
    separator: str
    """A token of its own in the model's tokenizer."""
    head: tuple[str, ...]
    """Names of the head's weight tensors (`….weight`, `….bias`), layer by layer with ReLU between them."""
    positive: int
    """Which of the head's outputs is the logit of "this step is right"."""
    system: str | None
    """System message the model was trained with; None leaves the prompt as it is."""
    models: tuple[str, ...] = ()
    threshold: str = "none published, calibrate"
    """Where to start a threshold, with its source."""

    def messages(self, prompt: Prompt) -> Prompt:
        """The prompt as the model wants it."""
        shown = tuple(message for message in prompt if message.role != "tools")
        if self.system is None:
            return shown
        return (Message("system", self.system), *(message for message in shown if message.role != "system"))

    def step_text(self, step: str) -> str:
        """A step without the blank line that separates it from the next."""
        return step.strip("\r\n")


QWEN = PRMFormat(
    # Layout: model card of Qwen/Qwen2.5-Math-PRM-7B; softmax over [wrong, right] at each <extra_0>.
    name="qwen2.5-math-prm",
    separator="<extra_0>",
    head=("score.0", "score.2"),
    positive=1,
    system="Please reason step by step, and put your final answer within \\boxed{}.",
    models=("Qwen/Qwen2.5-Math-PRM-7B", "Qwen/Qwen2.5-Math-PRM-72B", "Qwen/Qwen2.5-Math-7B-PRM800K"),
)
QWEN_BARE = PRMFormat(
    # The same without a system message, as Gen-Verse/ReasonFlux-PRM-7B and the embedded verifier use it.
    name="qwen2.5-math-prm-bare",
    separator="<extra_0>",
    head=("score.0", "score.2"),
    positive=1,
    system=None,
    models=("Gen-Verse/ReasonFlux-PRM-7B", "embedded:prm"),
)
FORMATS = {made.name: made for made in (QWEN, QWEN_BARE)}
CONFIG_KEY = "prm_format"
"""A checkpoint's `config.json` may name its format under this key."""


def find_format(config: dict[str, object], tensors: Collection[str], model: str) -> PRMFormat:
    """The format of a checkpoint: named by its configuration, known for its hub id, or told by the head it holds.

    Raises:
        ConfigurationError: Unknown name, or a head that no known format has.
    """
    named = config.get(CONFIG_KEY)
    if named is not None:
        if named not in FORMATS:
            raise ConfigurationError(f"{model}: unknown {CONFIG_KEY} {named!r}; known are {', '.join(FORMATS)}")
        return FORMATS[str(named)]
    for made in FORMATS.values():
        if model in made.models:
            return made
    for made in FORMATS.values():
        if all(f"{layer}.{part}" in tensors for layer in made.head for part in ("weight", "bias")):
            return made
    raise ConfigurationError(
        f"{model} holds no reward head that is known. Known heads: "
        + "; ".join(f"{made.name}: {', '.join(made.head)}" for made in FORMATS.values())
        + ". Is this a plain language model? Then use it as drafter or target, or as likelihood:… verifier."
    )
