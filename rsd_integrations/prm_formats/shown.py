"""A response as verifiers see it: thought and answer, without markers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from rsd_core import Path, Prompt, Reader, Step, beginning, begun, parts_of
from rsd_core.thoughts.reading import reader_at


@dataclass(frozen=True, slots=True)
class Shown:
    """A step, or more of a response, without markers."""

    thought: str = ""
    answer: str = ""
    ended: bool = False
    """Whether the thought ends with it."""
    gap: str = ""
    """A blank line if an answer follows a thought that was cut off, or another thought follows the first."""

    @property
    def text(self) -> str:
        """Both as one text, with a blank line after the end of the thought."""
        blank = bool(self.thought) and (self.ended or bool(self.answer))
        return f"{self.thought}\n\n{self.answer}" if blank else self.thought + self.answer

    def __bool__(self) -> bool:
        """Whether there is anything to judge."""
        return bool(self.text.strip())


def shown(path: Path, step: Step) -> Shown:
    """A step that follows a path as written, except for markers and the white space between them and a thought."""
    before = reader_at(path)
    seen = _read(before, step.text)
    begins = before.state in ("closed", "opened") if seen.thought else before.state in ("closed", "thought")
    if begins and seen:
        return replace(seen, gap="" if _last_text(path)[-1:].isspace() else "\n\n")
    return seen


def _read(before: Reader, written: str) -> Shown:
    after, pieces = before.read(written)
    # The reader holds back white space that may end the thought, and possible beginnings of markers. Here they belong
    # to the step in which they were written.
    pieces = (*pieces, ("thought", after.held)) if after.state == "thought" else (*pieces, *after.rest())
    thought, answer = ("".join(text for kind, text in pieces if kind == part) for part in ("thought", "answer"))
    if thought:
        thought = thought.removeprefix(before.held)
    else:
        answer = answer.removeprefix(before.held)
    return Shown(thought, answer, bool(thought) and not after.in_thought)


def _last_text(path: Path) -> str:
    """The text of the last step with more than markers; a blank one if there is none."""
    for node in path.up():
        if node.parent is not None and node.step is not None and (step := shown(node.parent, node.step)):
            return step.text
    return shown_beginning(_root(path)).text or " "


def shown_beginning(root: Path) -> Shown:
    """The part of the response already in the prompt, if its last message is to be continued."""
    message = begun(root.prompt)
    if message is None:
        return Shown()
    markers = None if root.thinking is None else root.thinking.markers
    return _read(Reader(markers), beginning(message, markers))


def shown_response(path: Path) -> Shown:
    """The whole response so far, including what is in the prompt."""
    own, parts = shown_beginning(_root(path)), parts_of(path)
    thought, answer = own.thought + parts.thought, own.answer + parts.answer
    return Shown(thought, answer, bool(thought) and not reader_at(path).in_thought)


def shown_steps(path: Path) -> list[str]:
    """The steps of a path with more than markers, stripped."""
    steps = [shown(node.parent, node.step) for node in path.up() if node.parent is not None and node.step is not None]
    return [step.text.strip() for step in reversed(steps) if step]


_plain: WeakKeyDictionary[Path, Path] = WeakKeyDictionary()


def without_markers(path: Path) -> Path:
    """The same prompt and response as plain text, for models that do not know the markers or would drop the thought.

    The result for the same path is the same object, so that models' caches serve later steps.
    """
    new: list[Path] = []
    for node in path.up():
        if node in _plain:
            break
        new.append(node)
    for node in reversed(new):
        if node.parent is None or node.step is None:
            _plain[node] = Path(_plain_prompt(node))
        else:
            step = plain_step(node.parent, node.step)
            _plain[node] = _plain[node.parent].extend(step) if step.text else _plain[node.parent]
    return _plain[path]


def plain_step(path: Path, step: Step) -> Step:
    """A step without markers; unchanged if it has none."""
    seen = shown(path, step)
    text = seen.gap + seen.text
    return step if text == step.text else Step(text, step.ending, size=step.size)


def _plain_prompt(root: Path) -> Prompt:
    if begun(root.prompt) is None:
        return root.prompt
    *before, last = root.prompt
    return (*before, replace(last, content=shown_beginning(root).text, extra={}, native=None))


def _root(path: Path) -> Path:
    return next(node for node in path.up() if node.parent is None)
