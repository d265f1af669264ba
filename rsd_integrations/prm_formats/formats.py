"""How a kind of reward model wants a problem and its steps, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rsd_core import ConfigurationError

PROBLEM = "{problem}"


@dataclass(frozen=True, slots=True)
class Head:
    """A reward head of its own: linear layers with ReLU between them, by the names of their tensors."""

    layers: tuple[str, ...]
    """Each has a `.weight`, and a `.bias` where `bias` says so."""
    outputs: int
    """1 for a value, 2 for the logits of wrong and right, in this order."""
    ensemble: bool = False
    """Several heads in one tensor, weights as [member, in, out]; the reward is their mean probability."""
    bias: bool = True
    """Whether a bias has to be there; one that is there counts in any case."""
    file: str | None = None
    """The file of the head without its ending, where it lies apart from the model's weights: `.safetensors`, or `.pt`,
    which is a pickle."""


@dataclass(frozen=True, slots=True)
class Words:
    """The language model's own head, at the words for a right and a wrong step."""

    right: str
    wrong: str


@dataclass(frozen=True, slots=True)
class Chat:
    """The prompt goes through the chat template; the steps are in the assistant's turn."""

    system: str | None = None
    """The system message that the model was trained with, in place of the prompt's own; None for none."""
    user: str = PROBLEM
    """What the user's turn says of the problem; `{problem}` alone keeps the prompt's own turns."""


@dataclass(frozen=True, slots=True)
class Turns:
    """Each step is a turn of the user's, the first one together with the problem; the assistant's word judges it."""

    ask: str = ""
    """What each of these turns ends in."""


@dataclass(frozen=True, slots=True)
class Text:
    """The prompt is plain text, and so are the steps after it."""

    template: str = PROBLEM
    """Around `{problem}`; `{bos}` is the tokenizer's beginning of text, which is put there by itself otherwise."""


@dataclass(frozen=True, slots=True)
class PRMFormat:
    """The input of a kind of reward model, where its score is read, and advice on its scores."""

    name: str
    prompt: Chat | Turns | Text
    heads: tuple[Head | Words, ...]
    """The heads that such models are known to have; one of them must be in the weights."""
    separator: str | None
    """What follows each step; None where it was chosen in training and has to be named."""
    read: str = "after each step"
    """Where the score is read, for people."""
    lead: tuple[str, str] = ("", "")
    """What comes before the first step and before later ones; `{i}` is the step's number."""
    apart: bool = True
    """The separator is tokenised apart from its step; otherwise as one text with it."""
    strict: bool = True
    """The separator must be one token: the score is read at it."""
    closing: Literal["", "eos", "turn"] = ""
    """Fed only to read the score and rolled back: the end-of-text token; or the end of the assistant's turn, with all
    that the chat template writes before it, which takes a `Chat` and no separator."""
    strip: Literal["", "steps", "all"] = ""
    """Whether the card strips white space around each step, or around the problem as well; what else it leaves."""
    splits: bool = False
    """The response is cut at every separator that is in it, so that a step may hold several; its score is at the last
    one. Otherwise a step has one, and what is like it inside of the step is none."""
    choose_separator: bool = False
    """Models of this kind were trained with different separators, so that one may be named."""
    models: tuple[str, ...] = ()
    threshold: str = "none published, calibrate"
    """Where to start a threshold, with its source."""
    aggregation: str = "minimum or product"
    """How the scores of steps make one of a solution."""
    thoughts: str = "as steps like those of the answer, no markers; trained on plain solutions"
    """What such models are given of a thought, and why."""
    source: str = ""
    """Where the layout is described."""

    def __post_init__(self) -> None:
        for wrong, why in self._faults():
            if wrong:
                raise ConfigurationError(f"the format {self.name}: {why}")

    def _faults(self) -> tuple[tuple[bool, str], ...]:
        """What fields say that cannot be, and why."""
        prompt, heads = self.prompt, self.heads
        said = prompt.user if isinstance(prompt, Chat) else prompt.template if isinstance(prompt, Text) else PROBLEM
        by_words = [head for head in heads if isinstance(head, Words)]
        layers = [head for head in heads if isinstance(head, Head)]
        return (
            (not heads, "it has no heads; give layers by the names of their tensors, or a right and a wrong word"),
            (bool(by_words) and len(heads) > 1, "a model that judges by words has no other head"),
            (any(not head.layers for head in layers), "a head has one layer or more; that of a file of its own is ''"),
            (any(head.outputs not in (1, 2) for head in layers), "a head has 1 output, a value, or 2, wrong and right"),
            (any(head.ensemble and head.outputs != 1 for head in layers), "each member of an ensemble has 1 output"),
            (PROBLEM not in said, f"its prompt leaves the problem out; {PROBLEM} stands for it"),
            (
                isinstance(prompt, Turns) and (not by_words or self.separator != ""),
                "steps in turns are judged by words, with separator ''",
            ),
            (
                self.separator is None and not self.choose_separator,
                "it has no separator; name one, '' for none, or let users choose it: choose_separator",
            ),
            (
                self.closing == "turn"
                and (self.separator != "" or self.choose_separator or not isinstance(prompt, Chat)),
                "it is read at the end of the assistant's turn, which takes a chat and no separator",
            ),
        )
