"""Makes text from models and users safe for a terminal: control characters are shown, never sent."""

from __future__ import annotations

import re

_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff"
"""C0 except tab and line feed, DEL, C1, and lone surrogates, which no encoding can represent."""
_TURNING = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029"
"""Marks that change text direction, and line separators that only some programs recognise."""
_ALL, _SOME = re.compile(f"[{_CONTROLS}{_TURNING}]"), re.compile(f"[{_CONTROLS}]")


def visible(text: str, *, turning: bool = True) -> str:
    r"""The text with its control characters as `\u001b` and so on, which is also valid inside JSON strings.

    Tabs and line feeds stay as they are, and `\r\n` is a line feed. An escape sequence could otherwise overwrite what
    is on the screen, set the window's title, or send keys to the shell; direction marks could display a text in another
    order.

    Args:
        text: Untrusted text.
        turning: Whether direction marks are shown as well; inside an enclosing element, as in HTML, they do no harm.
    """
    return (_ALL if turning else _SOME).sub(lambda match: f"\\u{ord(match[0]):04x}", text.replace("\r\n", "\n"))
