"""What a thinking model's chat template does, as data, and its own rendering of a conversation at any point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.templates.rendering import Template, Turn

QUESTION = "What is 1 + 3?"
THOUGHT = ("First add the two.\n\n", "So it is 4.")
ANSWER = ("Add them.\n\n", "The answer is 4.")


@dataclass(frozen=True)
class Mode:
    """A way to ask for a response: with thoughts, or without."""

    opening: str
    """What the generation prompt writes of the response."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Template arguments that ask for it."""
    system: str = ""
    """A system message that does, where no argument can."""


def _field(name: str) -> Callable[[Family, str, str], Turn]:
    return lambda family, thought, answer: {"role": "assistant", name: thought, "content": answer}


def _whole(family: Family, thought: str, answer: str) -> Turn:
    return {"role": "assistant", "content": family.begin + thought + family.closing + answer}


def _rest(family: Family, thought: str, answer: str) -> Turn:
    written = family.begin + thought + family.closing + answer
    return {"role": "assistant", "content": written.removeprefix(family.thinks.opening)}


def _prefix(family: Family, thought: str, answer: str) -> Turn:
    return {"role": "assistant", "content": thought, "prefix": True}


def _blocks(family: Family, thought: str, answer: str) -> Turn:
    blocks = [{"type": "thinking", "thinking": thought}, {"type": "text", "text": answer}]
    return {"role": "assistant", "content": blocks if thought else blocks[1:]}


def _parts(family: Family, thought: str, answer: str) -> Turn:
    parts = [{"type": "thoughts", "text": thought}, {"type": "response", "text": answer}]
    return {"role": "assistant", "content": {"blocks": parts if thought else parts[1:]}}


def _before_a_call(family: Family, thought: str, answer: str) -> Turn:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {}}}
    return {"role": "assistant", "content": "", "reasoning_content": thought, "tool_calls": [call]}


SHOWN: Mapping[str, Callable[[Family, str, str], Turn]] = {
    "reasoning_content": _field("reasoning_content"),
    "reasoning": _field("reasoning"),
    "thinking": _field("thinking"),
    "content": _whole,
    "content after the opening": _rest,
    "prefix": _prefix,
    "content blocks": _blocks,
    "content parts": _parts,
    "reasoning_content before a tool call": _before_a_call,
}
"""The messages in which templates show the thought of a response: most have a field for it, some read the text."""


_ONLY_THOUGHTS = {
    "prefix": "shows a thought only while it is open",
    "reasoning_content before a tool call": "shows a thought only before a tool call",
}


@dataclass(frozen=True)
class Family:
    """How one chat template writes thoughts."""

    name: str
    begin: str
    """What stands before a thought: the marker, and what the model or the template puts around it."""
    closing: str
    """What stands between a thought and the answer."""
    thinks: Mode
    answers: Mode | None = None
    """How it is asked to answer at once; None where it cannot be."""
    shown: str = ""
    """In what message it shows the thought of a response, one of `SHOWN`; empty where it never does."""
    earlier: str = "dropped"
    """What becomes of the thoughts of earlier turns: dropped, kept, or an empty one in their place."""
    before_answer: str = ""
    """What stands before an answer without thoughts."""
    special: tuple[str, ...] = ()
    """Tokens that the template does not spell out."""

    def modes(self) -> dict[str, Mode]:
        """The ways to ask, by what they are called here."""
        return {"thinks": self.thinks} | ({"answers": self.answers} if self.answers else {})

    def response(self, mode: Mode) -> list[tuple[str, str]]:
        """What the model writes after the opening, up to the middle of the answer: steps, and where each leads."""
        if mode is not self.thinks:
            return [(self.before_answer + ANSWER[0], "in the answer")]
        begun = (self.begin + THOUGHT[0]).removeprefix(mode.opening)
        closed = THOUGHT[1] + self.closing
        return [(begun, "in the thought"), (closed, "after the thought"), (ANSWER[0], "in the answer")]


def turns(mode: Mode, *history: Turn) -> list[Turn]:
    """A prompt: the system message that the mode needs, earlier turns, and the question."""
    system = [{"role": "system", "content": mode.system}] if mode.system else []
    return [*system, *history, {"role": "user", "content": QUESTION}]


@dataclass(frozen=True)
class Rendering:
    """A template's own text of a conversation, up to where the model would stand."""

    prompt: str
    places: Mapping[str, str] = field(default_factory=dict)
    """The text up to each place in the response that the template shows."""
    missing: str = ""
    """Why it does not show them all."""


def own_rendering(family: Family, template: Template, mode: Mode) -> Rendering:
    """The template's text of a whole conversation, response included, cut at every place where the model stands."""
    prompt = template.render(turns(mode), generate=True, arguments=mode.arguments)
    if mode is family.thinks and not family.shown:
        return Rendering(prompt, missing="drops the thought of any answer")
    whole = template.render([*turns(mode), _answered(family, mode)], generate=False, arguments=mode.arguments)
    if not whole.startswith(prompt):
        return Rendering(prompt, missing="shows the answer without what its generation prompt opens")
    shown = {place: whole[:end] for place, end in _cuts(whole, prompt).items()}
    if mode is family.thinks and family.shown in _ONLY_THOUGHTS:
        return Rendering(prompt, {"in the thought": shown["in the thought"]}, _ONLY_THOUGHTS[family.shown])
    return Rendering(prompt, shown)


def _answered(family: Family, mode: Mode) -> Turn:
    answer = "".join(ANSWER)
    if mode is family.thinks:
        return SHOWN[family.shown](family, "".join(THOUGHT), answer)
    if family.shown in ("content blocks", "content parts"):
        return SHOWN[family.shown](family, "", answer)
    return {"role": "assistant", "content": answer}


def _cuts(whole: str, prompt: str) -> dict[str, int]:
    """Where the model stands: after the first step of the thought, and on both sides of that of the answer."""
    cuts = {}
    if (first := whole.find(THOUGHT[0], len(prompt))) >= 0:
        cuts["in the thought"] = first + len(THOUGHT[0])
    if (start := whole.find(ANSWER[0], len(prompt))) >= 0:
        cuts |= {"after the thought": start, "in the answer": start + len(ANSWER[0])}
    return cuts


def rendered(template: Template, mode: Mode, history: Sequence[Turn]) -> str:
    """The prompt of a conversation that went on before."""
    return template.render(turns(mode, *history), generate=True, arguments=mode.arguments)
