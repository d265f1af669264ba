"""What is told of a result in a row of a table: its text, its rewards, what it took."""

from __future__ import annotations

from typing import Any

from rsd_core import Result

RESULT_COLUMNS: dict[str, str] = {
    "text": "text",
    "thought": "text",
    "answer": "optional text",
    "finish_reason": "text",
    "rewards": "list of numbers",
    "authors": "list of texts",
    "tokens": "whole number",
    "drafter_tokens": "whole number",
    "verifier_tokens": "whole number",
    "target_tokens": "whole number",
    "flops": "number",
    "flops_paper": "number",
    "cost": "number",
    "seconds": "number",
}
"""The columns and what they hold, see `data_files.KINDS`."""


def result_row(result: Result) -> dict[str, Any]:
    """A result as values by column.

    `rewards` and `authors` have an entry for each step: the reward of its draft, accepted or not, or null, and who
    wrote it. `tokens` is the length of the response, its thought included; those of a role are all that it computed.
    `cost` is in the currency of the models' prices; what is unknown is null.
    """
    ledger, total = result.ledger, result.ledger.total
    return {
        "text": result.text,
        "thought": result.thought,
        "answer": result.answer,
        "finish_reason": result.finish_reason,
        "rewards": [step.reward for step in result.steps],
        "authors": [step.author for step in result.steps],
        "tokens": sum(step.size for step in result.steps),
        "drafter_tokens": ledger.drafter.computed,
        "verifier_tokens": ledger.verifier.computed,
        "target_tokens": ledger.target.computed,
        "flops": total.flops,
        "flops_paper": total.flops_paper,
        "cost": total.cost,
        "seconds": result.seconds,
    }
