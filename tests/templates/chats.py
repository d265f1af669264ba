"""What a chat server makes of a response that was begun, where it renders the messages by the template.

vLLM and transformers do: `continue_final_message` renders the last message, and cuts the text where that message ends.
"""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

from tests.templates.families import ANSWER, THOUGHT, Family, Mode, turns
from tests.templates.rendering import Turn


def chat_forms(family: Family, mode: Mode, place: str) -> dict[str, Turn]:
    """The messages in which a client can send what was written of a response, by the fields that they use."""
    written = mode.opening
    for step, reached in family.response(mode):
        written += step
        if reached == place:
            break
    forms: dict[str, Turn] = {"content": {"role": "assistant", "content": written}}
    if mode is family.thinks and place == "in the answer":
        fields = dict.fromkeys(("reasoning", "reasoning_content"), "".join(THOUGHT))  # vLLM fills both
        forms["reasoning"] = {"role": "assistant", "content": ANSWER[0], **fields}
    elif mode is not family.thinks:
        forms["content"] = {"role": "assistant", "content": ANSWER[0]}
    return forms


def chat_prefix(tokenizer: Any, mode: Mode, message: Turn) -> str | None:
    """The text that a server lets its model continue; None if it answers with an error."""
    try:
        return str(
            tokenizer.apply_chat_template(
                [*turns(mode), dict(message)], tokenize=False, continue_final_message=True, **mode.arguments
            )
        )
    except (TemplateError, ValueError, TypeError):
        return None


def chat_answer(tokenizer: Any, family: Family, mode: Mode, place: str, wanted: str) -> str:
    """The form in which a server's model continues the wanted text, or the outcome of the closest form.

    Returns:
        A form; `trimmed` where white space at the end is lost; `changed` where more is; `refused` where all are errors.
    """
    texts = {form: chat_prefix(tokenizer, mode, turn) for form, turn in chat_forms(family, mode, place).items()}
    for form, text in texts.items():
        if text == wanted:
            return form
    known = [text for text in texts.values() if text is not None]
    if any(text == wanted.rstrip() for text in known):
        return "trimmed"
    return "changed" if known else "refused"
