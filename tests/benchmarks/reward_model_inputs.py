"""Inputs of reward models against their cards: `python -m tests.benchmarks.reward_model_inputs --json FILE [--quick]`.

For every format and each vocabulary of its models, the inputs for forty nasty solutions, and for random ones, are
compared with those by the card's recipe for the whole text. Ends with an error if the two differ and no reason is given
why ours is correct. Loads no model, and downloads nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tests.benchmarks.command import Command, Size
from tests.prm_formats.solutions import SOLUTIONS, Solution, random_solution
from tests.prm_formats.truth import ROWS, Row, read, vocabulary

SIZES = {"random": Size(400, 40, "random solutions for each row, in addition to the forty", least=0)}


def compared(row: Row, solutions: Sequence[Solution]) -> dict[str, Any]:
    """The number of solutions read as on the card, and the others by reason."""
    layouts, tok = row.layouts(), vocabulary(row.vocabulary)
    explained: dict[str, list[str]] = {}
    unexplained = []
    for solution in solutions:
        if read(layouts, solution) != row.recipe(tok, solution.problem, solution.plain):
            if reason := row.reason(solution):
                explained.setdefault(reason, []).append(solution.name)
            else:
                unexplained.append(solution.name)
    equal = len(solutions) - len(unexplained) - sum(map(len, explained.values()))
    told = [[reason, *names] for reason, names in explained.items()]
    return {"solutions": len(solutions), "equal": equal, "explained": told, "unexplained": unexplained}


def measure(randomly: int) -> list[dict[str, Any]]:
    """All rows, each with its forty solutions and the given number of random ones."""
    rows = []
    for row in ROWS:
        rng = random.Random(row.name)
        others = [random_solution(rng, f"random {i}") for i in range(randomly)]
        names = {"format": row.format, "vocabulary": row.vocabulary, "separator": row.separator}
        rows.append(names | {"forty": compared(row, SOLUTIONS), "random": compared(row, others)})
    return rows


def table(data: dict[str, Any]) -> str:
    """A row for each format and vocabulary."""
    lines = ["| format | vocabulary | as on the card, of 40 | else ours is correct, because |", "|---|---|---|---|"]
    for row in data["rows"]:
        forty = row["forty"]
        why = [f"{reason}: {', '.join(names)}" for reason, *names in forty["explained"]]
        why += [f"**without a known reason**: {', '.join(forty['unexplained'])}"] if forty["unexplained"] else []
        separator = "" if row["separator"] is None else f", separator `{row['separator']!r}`"
        lines.append(
            f"| `{row['format']}`{separator} | {row['vocabulary']} | {forty['equal']} | {'<br>'.join(why) or '–'} |"
        )
    return "\n".join(lines)


COMMAND = Command("reward_model_inputs", __doc__, SIZES, table)


def main() -> None:
    """Compare and write."""
    options = COMMAND.parse()
    rows = measure(options.random)
    COMMAND.write(options, {"rows": rows})
    wrong = [row for row in rows if row["forty"]["unexplained"] or row["random"]["unexplained"]]
    if wrong:
        raise SystemExit("\n".join(["different, without a known reason:", *map(str, wrong)]))


if __name__ == "__main__":
    main()
