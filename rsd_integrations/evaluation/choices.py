"""Multiple-choice problems: the options of a row, and the question with a letter before each of them."""

from __future__ import annotations

import ast
import random
from collections.abc import Mapping, Sequence
from typing import Any

from rsd_core import ConfigurationError
from rsd_integrations.data_files import as_written
from rsd_integrations.evaluation.answer_words import LETTERS


def options(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """The options of a row: in several columns, or as a list in one.

    Raises:
        ConfigurationError: A column is missing, or a single one does not hold a list.
    """
    missing = [column for column in columns if row.get(column) is None]
    if missing:
        raise ConfigurationError(f"a row has no column {missing[0]!r} for its choices; it has {', '.join(row)}")
    if len(columns) > 1:
        return [str(as_written(row[column])) for column in columns]
    listed = row[columns[0]]
    if isinstance(listed, str):  # in a cell of CSV
        try:
            listed = ast.literal_eval(listed)
        except (ValueError, SyntaxError):
            listed = None
    if not isinstance(listed, list | tuple):
        raise ConfigurationError(f"{row[columns[0]]!r:.80} in the column {columns[0]!r} is not a list of choices")
    return [str(as_written(option)) for option in listed]


def with_choices(question: str, options: list[str], answer: Any, shuffle: bool) -> tuple[str, str | None]:
    """The question with lettered options (as in the paper), and the letter of the correct one.

    Raises:
        ConfigurationError: There are more options than letters, or the answer is none of them.
    """
    if len(options) > len(LETTERS):
        raise ConfigurationError(
            f"a problem has {len(options)} choices, and can have at most {len(LETTERS)}: {question!r:.80}"
        )
    right = None if as_written(answer) is None else _right_option(options, answer)
    order = list(range(len(options)))
    if shuffle:
        random.Random(question).shuffle(order)
    listed = " ".join(f"({letter}) {options[i]}" for letter, i in zip(LETTERS, order, strict=False))
    return f"{question}\nAnswer Choices: {listed}", None if right is None else LETTERS[order.index(right)]


def _right_option(options: list[str], answer: Any) -> int:
    """Which option an answer means: by number from 0, by letter, or by its text."""
    text = str(as_written(answer)).strip()
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options):
        return answer
    if text in LETTERS[: len(options)]:
        return LETTERS.index(text)
    if text in options:
        return options.index(text)
    if text.isdecimal() and int(text) < len(options):  # a number in a cell of CSV
        return int(text)
    raise ConfigurationError(
        f"the answer {answer!r} is not one of the choices {', '.join(options)!r:.200}, nor a letter or a number from 0"
    )
