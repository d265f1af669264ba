r"""Where in a text its answer stands: in `\boxed{…}`, after "the answer is", or at its end."""

from __future__ import annotations

import re
from collections.abc import Iterator

_CUE = re.compile(
    r"(?:\b(?:answer|result|solution|choice|option)\b(?:[ \t]+(?:to|for)\b[^.\n:]{0,80}?)?[ \t*]*"
    r"(?:is|are|was|would be|should be|must be|[:=])|####)[ \t:*]*(?:(?:then|thus|therefore|simply)\b)?[ \t:*]*",
    re.IGNORECASE,
)
_REASON = re.compile(
    r",?\s+(?:because|since|which|so that)\b|,\s+(?:as|(?:and |but )?not|rather than)\b|;"
    r"|(?<=\S)(?<!\bor)(?<!\band)\s+\((?!\s*(?:[-\d.]+\s*,|or\b|and\b))",
    re.IGNORECASE,
)
_JOINED = re.compile(r"[\s$.,;:]*(?:and|or|,)[\s$]*(?:[a-zA-Z](?:_\w+)?\s*=)?[\s$]*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[^\W_]|[)\]}$%*\"'])[.!?]+[*\"']*(?=\s|$)")
_DISPLAY = re.compile(r"\A\s*(?:(?:\$\$|\\\[)[ \t]*\n\s*)?")
_WORD = re.compile(r"[^\W_]")
_BOX = "\\boxed{"
SEARCHED = 20_000
"""Characters at the end of a text in which its answer is looked for."""


def stated(text: str) -> list[str]:
    r"""What a text marks as its answer: the last box, else what follows the last "answer is", "answer:" or "####".

    Boxes with nothing but "and", "or" or a comma between them are one answer. What follows "answer is" is read up to
    the end of the line, of the sentence, and of its part before a reason or a "not": three readings, the longest first.

    Returns:
        The readings; none where the text marks no answer.
    """
    text = text[-SEARCHED:]
    if (box := boxed(text)) is not None:
        return [box]
    cues = list(_CUE.finditer(text))
    if not cues:
        return []
    line = _DISPLAY.sub("", text[cues[-1].end() :]).partition("\n")[0]
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    readings = (line, sentence, _REASON.split(sentence, maxsplit=1)[0])
    return list(dict.fromkeys(reading.strip().strip("*").strip() for reading in readings))


def final_answer(text: str) -> str | None:
    r"""A text's answer for people: what it marks as such, else its last sentence; None where it says nothing."""
    readings = stated(text)
    return (readings[-1] if readings else last_sentence(text)).strip("*. ") or None


def last_sentence(text: str) -> str:
    """The last sentence of a text, without the mark at its end."""
    lines = [line for line in text[-SEARCHED:].split("\n") if _WORD.search(line)]
    sentences = [part.strip() for part in _SENTENCE_END.split(lines[-1]) if part.strip()] if lines else []
    return sentences[-1] if sentences else ""


def boxed(text: str) -> str | None:
    r"""The content of the last complete `\boxed{…}` with those that are joined to it; None where there is none."""
    text = text[-SEARCHED:]
    contents: list[str] = []
    end = len(text)
    for start, stop, content in _boxes_backwards(text):
        if contents and not _JOINED.fullmatch(text[stop:end]):
            break
        contents.insert(0, content)
        end = start
    return ", ".join(contents) if contents else None


def _boxes_backwards(text: str) -> Iterator[tuple[int, int, str]]:
    """Beginning, end and content of each complete box, the last one first."""
    opened: list[int] = []
    closed: dict[int, int] = {}
    for brace in re.finditer(r"[{}]", text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif opened:
            closed[opened.pop()] = brace.end()
    start = len(text)
    while (start := text.rfind(_BOX, 0, start)) >= 0:
        if (stop := closed.get(start + len(_BOX) - 1)) is not None:
            yield start, stop, text[start + len(_BOX) : stop - 1].strip()
