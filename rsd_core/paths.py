"""Messages, steps and paths: the values that decoder and models exchange."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rsd_core.thoughts.markers import Thinking

Ending = Literal["delimiter", "end", "length"]
"""Why a model stopped writing: the step's delimiter, the end of the whole answer, or the token cap."""

ROLES = ("system", "user", "assistant", "tool", "tools")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt."""

    role: str
    """One of `ROLES`. The content of `tools` defines what the model may call: a JSON list in OpenAI's format."""
    content: str
    """The text; most models read nothing else."""
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Further fields as used by chat templates and servers: `tool_calls`, `tool_call_id`, `name`, and
    `reasoning_content`, the thought that came before an assistant's text."""
    native: object = field(default=None, compare=False, repr=False)
    """The caller's own message object, passed unchanged to models of the same framework."""


Prompt = tuple[Message, ...]
"""A normalised prompt: one or more messages."""


def begun(prompt: Prompt) -> Message | None:
    """The last message if it is the beginning of the response, to be continued."""
    last = prompt[-1] if prompt else None
    return last if last and last.role == "assistant" and not last.extra.keys() - {"reasoning_content"} else None


@dataclass(frozen=True, slots=True)
class Step:
    """One unit of an answer, as a model wrote it."""

    text: str
    """The step with its delimiter and any thought markers written out, without the model's end-of-answer token."""
    ending: Ending
    """Why the model stopped here."""
    tokens: tuple[int, ...] = ()
    """The sampled ids without the end-of-answer id, in `vocabulary`; empty when unknown."""
    vocabulary: str = ""
    """Identity of the vocabulary of `tokens`. Models with the same vocabulary exchange ids, others text."""
    size: int = 0
    """Tokens generated to write the step, the end-of-answer token included; 0 when unknown."""
    logprobs: tuple[float, ...] = field(default=(), compare=False, repr=False)
    """Natural log-probabilities of `tokens`, or of the text's tokens if the ids are unknown, under the model that wrote
    them; empty when unknown."""
    native: object = field(default=None, compare=False, repr=False)
    """The message as the model returned it, if a turn is more than its text: tool calls, images."""
    partial: bool = False
    """Whether it was cut inside a character, which its text leaves to the step that completes or rewrites it."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Path:
    """A prompt with the steps accepted so far.

    Immutable: extending it is O(1) and shares the prefix, so candidates are children of one path. Paths compare
    and hash by identity, which is what models key their caches on; a cache that references them weakly is freed with
    the request.
    """

    prompt: Prompt
    parent: Path | None = None
    step: Step | None = None
    depth: int = 0
    """Number of accepted steps, including those of earlier reasoning that is part of the prompt."""
    thinking: Thinking | None = None
    """How the response's thought begins, the same text for all models of the request; None if none thinks."""

    def extend(self, step: Step) -> Path:
        """The path with one more step."""
        return Path(self.prompt, self, step, self.depth + 1, self.thinking)

    def up(self) -> Iterator[Path]:
        """This path, its parent, and so on to the bare prompt."""
        node: Path | None = self
        while node is not None:
            yield node
            node = node.parent

    @property
    def opening(self) -> str | None:
        """How the response begins before any step is written: the beginning of a thought.

        A model reads the prompt without the thought that its own chat template opens, then this. If None, each model
        reads its own template's prompt unchanged.
        """
        return None if self.thinking is None else self.thinking.opening

    @property
    def steps(self) -> tuple[Step, ...]:
        """The accepted steps in order."""
        steps: list[Step] = []
        node: Path | None = self
        while node is not None:
            if node.step is not None:
                steps.append(node.step)
            node = node.parent
        return tuple(steps[::-1])

    @property
    def text(self) -> str:
        """The response so far as written, thought markers included."""
        return (self.opening or "") + "".join([step.text for step in self.steps])
