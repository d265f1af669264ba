"""The section of `python -m tests.benchmarks.real` in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def page(data: dict[str, Any]) -> str:
    """The figures as a section."""
    verifiers = [
        f"| {name} | {row['steps']} | {row['right']} | {_number(row['auc'])} | {_span(row['auc_ci95'])} "
        f"| {_number(row['median_if_right'])} | {_number(row['median_if_wrong'])} |"
        for name, row in data["verifiers"].items()
    ]
    n, per_token = data["methods"]["target"]["n"], data["flops_per_token"]
    return "\n".join(
        [
            "## Real published weights",
            "",
            f"Made by `python -m tests.benchmarks.real`, {data['date']}, {data['machine']}, {data['in_flight']} "
            "requests in flight, one thread per model. SmolLM2-135M-Instruct (Q4_1) drafts, Gemma 3 270M base (Q4_K_M) "
            f"is the target. Each of {n} nouns, French, German or Spanish, takes two steps: its English translation, "
            "then the plural of that. An answer is correct if both are. Greedy decoding; thresholds δ were chosen on "
            f"{data['dev']} other nouns. Other work may have shared the machine: compare FLOPs, not seconds.",
            "",
            *_table(data["methods"], data["thresholds"]),
            "",
            "Differences are paired over the nouns: bootstrap intervals, McNemar's exact test. FLOPs charge "
            f"everything; a token takes {per_token['target'] / per_token['drafter']:.2f} times as many in the target.",
            "",
            "The expectations of calibration for these thresholds, on its own nouns:",
            "",
            "| method | correct | 95 % | steps by target |",
            "|---|---|---|---|",
            *(
                f"| {name} | {_number(row['accuracy'])} | {_span(row['accuracy_ci95'])} | {row['target_share']:.0%} |"
                for name, row in data["expected"].items()
            ),
            "",
            "How well rewards separate correct from wrong steps, on the drafts in the RSD runs (intervals over nouns):",
            "",
            "| verifier | drafts | correct | AUC | 95 % | median reward if correct | if wrong |",
            "|---|---|---|---|---|---|---|",
            *verifiers,
            "",
            f"The target as judge, on the first {data['judge']['target']['n']} nouns:",
            "",
            *_table(data["judge"], data["thresholds"]),
            "",
            f"The same weights on transformers in bfloat16, on the first {data['transformers']['target']['n']} nouns:",
            "",
            *_table(data["transformers"], data["thresholds"]),
            "",
            *(
                f"- {name}: {row['same_texts']} of {row['n']} texts are the same as with llama.cpp"
                for name, row in data["transformers"].items()
            ),
            "",
            "For what this does and does not show, see [Real models](real-models.md).",
        ]
    )


def _table(rows: Mapping[str, Mapping[str, Any]], thresholds: Mapping[str, float]) -> list[str]:
    lines = [
        "| method | δ | correct | translations | plurals | minus target | 95 % | p | steps by target | FLOPs per noun "
        "| times fewer (95 %) | paper's convention | s per noun |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        delta = f"{thresholds[name]:.3g}" if name in thresholds else "–"
        lines.append(
            f"| {name} | {delta} | {row['accuracy']:.3f} | {row['translations_right']:.3f} "
            f"| {row['plurals_right']:.3f} | {row['difference']:+.3f} | {_span(row['difference_ci95'])} "
            f"| {row['p_value']:.2g} | {row['target_share']:.0%} | {row['flops_per_noun'] / 1e9:.2f} G "
            f"| {_number(row['fewer_flops'])} ({_span(row['fewer_flops_ci95'])}) "
            f"| {_number(row['fewer_flops_paper'])} | {row['seconds_per_noun']:.2f} |"
        )
    return lines


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _span(ends: Sequence[float] | None) -> str:
    return "–" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"
