"""The input of an outcome model for a thought and an answer, against its chat template's own text of the message."""

from __future__ import annotations

from collections.abc import Iterator

from rsd_core import Path, Step, as_prompt
from rsd_integrations.prm_formats import FORMATS, Layouts, bind
from tests.templates.comparing import Comparison
from tests.templates.families import ANSWER, SHOWN, THOUGHT, Family, turns
from tests.templates.rendering import Turn

IN_CONTENT = ("content", "content after the opening", "content blocks", "content parts")
FIELDS = ("reasoning_content", "reasoning", "thinking")


def place(family: Family) -> str:
    """Where the template shows a thought."""
    if family.shown in FIELDS:
        return f"`{family.shown}`"
    return "content, between its markers" if family.shown in IN_CONTENT else "nowhere: text before the answer"


def faults(one: Comparison) -> Iterator[str]:
    """Where what is read differs from what the template renders, for an answer alone and for one after a thought."""
    ours, own = _read(one), _own(one)
    if ours != own:
        yield f"{one.family.name}, {'with' if one.thinks else 'without'} a thought: {ours!r} where it renders {own!r}"


def _read(one: Comparison) -> str:
    """The text that is read with the last step."""
    path = Path(as_prompt([*turns(one.mode)]), thinking=one.thinking())
    layouts = Layouts(bind(FORMATS["outcome"], one.tokenizer, one.family.name))
    *before, last = [text for text, _ in one.family.response(one.mode)]
    for text in before:
        path = path.extend(Step(text, "delimiter"))
    return layouts.explain(path, Step(last, "end")).text


def _own(one: Comparison) -> str:
    """The template's rendering of the whole response, by jinja alone."""
    thought, answer = "".join(THOUGHT), ANSWER[0]
    asked = [turn for turn in turns(one.mode) if turn["role"] != "system"]  # outcome models are shown none
    own = f"{one.family.before_answer}{answer}" if not one.mode.opening else answer
    messages: list[Turn] = [{"role": "assistant", "content": own}]
    if one.thinks:
        messages = [{"role": "assistant", "content": f"{thought}\n\n{answer}"}]
        if one.family.shown in (*FIELDS, *IN_CONTENT):
            messages.insert(0, SHOWN[one.family.shown](one.family, thought, answer))
    texts = [one.template.render([*asked, message], generate=False, arguments={}) for message in messages]
    # Where it shows thoughts only if asked to by an argument, the model reads them as text.
    return texts[0] if not one.thinks or THOUGHT[0] in texts[0] else texts[-1]
