"""Text of models and users, made harmless for a terminal: control characters are shown, never sent."""

from __future__ import annotations

import re

_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff"
"""C0 but for tab and line feed, DEL, C1, and halves of characters, which no encoding holds."""
_TURNING = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029"
"""What turns the direction of a text, and ends of lines that are none elsewhere."""
_ALL, _SOME = re.compile(f"[{_CONTROLS}{_TURNING}]"), re.compile(f"[{_CONTROLS}]")


def visible(text: str, *, turning: bool = True) -> str:
    r"""The text with its control characters as `\u001b` and the like, also right inside the strings of JSON.

    Tabs and line feeds stay as they are, and `\r\n` is a line feed. An escape sequence could otherwise move the cursor
    over what stands there, set the window's title, or send keys to the shell; marks of direction could show a text in
    another order.

    Args:
        text: Anybody's text.
        turning: Whether marks of direction are shown as well; where the text is enclosed, as in HTML, they do no harm.
    """
    return (_ALL if turning else _SOME).sub(lambda match: f"\\u{ord(match[0]):04x}", text.replace("\r\n", "\n"))
