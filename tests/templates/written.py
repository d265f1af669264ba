"""Chat templates of our own, one in the manner of each format in use, as short as they can be."""

from __future__ import annotations

from pathlib import Path

from tests.templates.families import Family, Mode

FOLDER = Path(__file__).parent / "written"
_OFF = {"enable_thinking": False}
_EMPTY = Mode("<think>\n\n</think>\n\n", _OFF)

WRITTEN = (
    Family("opened_by_the_model", "<think>\n", "\n</think>\n\n", Mode(""), _EMPTY, "reasoning_content"),
    Family("opened_by_the_template", "<think>\n", "\n</think>\n\n", Mode("<think>\n"), _EMPTY, "reasoning_content"),
    Family("closer_alone", "<think>", "</think>", Mode("<think>"), Mode("</think>", _OFF), "reasoning_content", "kept"),
    Family("content_alone", "<think>\n", "\n</think>\n\n", Mode("<think>\n"), None, "content"),
    Family("always_split", "<think>\n", "\n</think>\n\n", Mode("<think>\n")),
    Family(
        "line_before_the_opener",
        "\n<think>",
        "</think>\n",
        Mode(""),
        Mode("\n<think></think>", _OFF),
        "reasoning_content",
        "an empty one",
        before_answer="\n",
    ),
    Family(
        "system_switch",
        "<think>\n",
        "\n</think>\n\n",
        Mode("<think>\n"),
        Mode("<think></think>", system="Be brief. /no_think"),
        "content after the opening",
    ),
    Family("blocks", "[THINK]", "[/THINK]", Mode(""), None, "content blocks", "kept"),
    Family(
        "channels",
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        Mode(""),
        None,
        "thinking",
    ),
    Family(
        "own_messages",
        "<|think|>",
        "<|end|><|begin|>assistant<|content|>",
        Mode(""),
        Mode("<|think|><|end|><|begin|>assistant", _OFF),
        "reasoning",
        "kept",
        before_answer="<|content|>",
    ),
    Family(
        "answer_marker",
        "<|START_THINKING|>",
        "<|END_THINKING|><|START_TEXT|>",
        Mode("<|START_THINKING|>"),
        Mode("<|START_THINKING|><|END_THINKING|>", _OFF),
        "reasoning_content",
        "kept",
        before_answer="<|START_TEXT|>",
    ),
)
"""What each of them does."""


def source(name: str) -> str:
    """The template of that name."""
    return (FOLDER / f"{name}.jinja").read_text().rstrip("\n")
