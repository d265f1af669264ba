"""How a kind of reward model expects a problem and its steps, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rsd_core import ConfigurationError

PROBLEM = "{problem}"


@dataclass(frozen=True, slots=True)
class Head:
    """A separate reward head: linear layers with ReLU between them, by their tensors' names."""

    layers: tuple[str, ...]
    """Each has a `.weight`, and a `.bias` depending on `bias`."""
    outputs: int
    """1 for a value, 2 for the logits of wrong and right, in this order."""
    ensemble: bool = False
    """Several heads in one tensor, weights as [member, in, out]; the reward is their mean probability."""
    bias: bool = True
    """Whether a bias is required; an existing one is used in any case."""
    file: str | None = None
    """The head's file without suffix, if it is separate from the model's weights: `.safetensors`, or `.pt`, which is a
    pickle."""


@dataclass(frozen=True, slots=True)
class Words:
    """The language model's own head, read at the words for a right and a wrong step."""

    right: str
    wrong: str


@dataclass(frozen=True, slots=True)
class Chat:
    """The prompt goes through the chat template; the steps are in the assistant's turn."""

    system: str | None = None
    """The system message that the model was trained with, replacing the prompt's own; None for none."""
    user: str = PROBLEM
    """The user's turn with the problem; just `{problem}` keeps the prompt's own turns."""


@dataclass(frozen=True, slots=True)
class Turns:
    """Each step is a user turn, the first one together with the problem; the assistant's word judges it."""

    ask: str = ""
    """The end of each of these turns."""


@dataclass(frozen=True, slots=True)
class Text:
    """The prompt is plain text, and so are the steps after it."""

    template: str = PROBLEM
    """Around `{problem}`; `{bos}` is the tokenizer's beginning-of-text token, otherwise added automatically."""


@dataclass(frozen=True, slots=True)
class PRMFormat:
    """The input of a kind of reward model, where its score is read, and advice on its scores."""

    name: str
    prompt: Chat | Turns | Text
    heads: tuple[Head | Words, ...]
    """The known heads of such models; one of them must be in the weights."""
    separator: str | None
    """What follows each step; None if it was chosen in training and must be given."""
    read: str = "after each step"
    """Where the score is read, for people."""
    lead: tuple[str, str] = ("", "")
    """Text before the first step and before later ones; `{i}` is the step's number."""
    apart: bool = True
    """Whether the separator is tokenised separately from its step, rather than as one text."""
    strict: bool = True
    """Whether the separator must be one token, at which the score is read."""
    closing: Literal["", "eos", "turn"] = ""
    """What is fed only to read the score and then rolled back: the end-of-text token; or the end of the assistant's
    turn, with everything the chat template writes before it, which needs a `Chat` and no separator."""
    strip: Literal["", "steps", "all"] = ""
    """Whether the card strips white space around each step, or around the problem as well; what else it leaves."""
    splits: bool = False
    """Whether the response is cut at every separator in it, so that a step may contain several, with its score at the
    last one. Otherwise a step has one, and lookalikes inside the step do not count."""
    choose_separator: bool = False
    """Whether models of this kind were trained with different separators, so that one may be given."""
    models: tuple[str, ...] = ()
    threshold: str = "none published, calibrate"
    """Where to start a threshold, with its source."""
    aggregation: str = "minimum or product"
    """How to aggregate the scores of steps into one for a solution."""
    thoughts: str = "as steps like those of the answer, no markers; trained on plain solutions"
    """How such models read a thought, and why."""
    source: str = ""
    """Source of the layout."""

    def __post_init__(self) -> None:
        for wrong, why in self._faults():
            if wrong:
                raise ConfigurationError(f"the format {self.name}: {why}")

    def _faults(self) -> tuple[tuple[bool, str], ...]:
        """Possible faults of the fields: whether each applies, and its message."""
        prompt, heads = self.prompt, self.heads
        said = prompt.user if isinstance(prompt, Chat) else prompt.template if isinstance(prompt, Text) else PROBLEM
        by_words = [head for head in heads if isinstance(head, Words)]
        layers = [head for head in heads if isinstance(head, Head)]
        return (
            (not heads, "it has no heads; give layers by the names of their tensors, or a right and a wrong word"),
            (bool(by_words) and len(heads) > 1, "a model that judges by words has no other head"),
            (any(not head.layers for head in layers), "a head has at least one layer; that of a separate file is ''"),
            (any(head.outputs not in (1, 2) for head in layers), "a head has 1 output, a value, or 2, wrong and right"),
            (any(head.ensemble and head.outputs != 1 for head in layers), "each member of an ensemble has 1 output"),
            (PROBLEM not in said, f"its prompt lacks the problem; write {PROBLEM} for it"),
            (
                isinstance(prompt, Turns) and (not by_words or self.separator != ""),
                "steps in turns are judged by words, with separator ''",
            ),
            (
                self.separator is None and not self.choose_separator,
                "it has no separator; give one, '' for none, or let users choose it: choose_separator",
            ),
            (
                self.closing == "turn"
                and (self.separator != "" or self.choose_separator or not isinstance(prompt, Chat)),
                "it is read at the end of the assistant's turn, which takes a chat and no separator",
            ),
        )
