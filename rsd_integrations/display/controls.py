"""Text of models and users, made harmless for a terminal: control characters are shown, never sent."""

from __future__ import annotations

import re

_LINES = re.compile("\r\n")
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but for tab and line feed, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of text
    "\u2028\u2029\ud800-\udfff]"  # other ends of lines, and what no encoding holds
)


def visible(text: str) -> str:
    r"""The text with its control characters as `\u001b` and the like, also right inside the strings of JSON.

    Tabs and line feeds stay as they are. An escape sequence could otherwise move the cursor over what stands there,
    set the window's title, or send keys to the shell; marks of direction could show a text in another order.
    """
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", _LINES.sub("\n", text))
