"""The engine against transformers' decoding: `python -m tests.benchmarks.alternatives --json FILE [--quick]`.

The target writes greedy answers by plain decoding, since none of the others offers what reward-guided decoding needs in
addition: rolling back, branching, scoring, three models on one device. Tokens per second, medians over rounds, with
alternating methods. Compilation is not timed.
"""

from __future__ import annotations

import copy
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from rsd_core import Limits, Settings, TargetOnly
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.evaluation.tasks import find_task
from rsd_integrations.huggingface import load_generator
from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from rsd_integrations.huggingface.linear import Linear
from tests.benchmarks.command import Command, Size

SIZES = {
    "tokens": Size(60, 8, "tokens after each prompt"),
    "first": Size(2, 1, "first calls of each method, in which one of them is compiled"),
    "rounds": Size(5, 1, "rounds of each method"),
    "layer_rounds": Size(30, 3, "rounds of a single layer"),
}


class Ways:
    """Methods that write the first tokens of answers; no answer ends earlier, so all write the same number."""

    def __init__(self, name: str, dtype: torch.dtype, tokens: int) -> None:
        self.tokens = tokens
        folder = FOLDER / name
        self.tokenizer: Any = load_tokenizer(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self.model.generation_config.eos_token_id = None
        self.settings: Any = copy.deepcopy(self.model.generation_config)
        self.settings.max_new_tokens, self.settings.eos_token_id = tokens, -1
        engine = load_generator(str(folder), dtype=str(dtype).removeprefix("torch."))
        engine.eos_ids = frozenset()
        limits = Limits(max_tokens=tokens, max_repeats=None)
        self.engine = TargetOnly(target=engine, settings=Settings(limits=limits))

    def ids(self, prompt: str) -> list[int]:
        """A prompt as the models read it."""
        messages = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def with_engine(self, prompts: list[str]) -> None:
        """This project's engine."""
        self.engine.run_many(prompts)

    def padded(self, prompts: list[str], **options: Any) -> None:
        """`generate()` on one padded batch."""
        rows = [self.ids(prompt) for prompt in prompts]
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        self.model.generate(
            ids, attention_mask=mask, max_new_tokens=self.tokens, do_sample=False, pad_token_id=0, **options
        )

    def static(self, prompts: list[str]) -> None:
        """`generate()` with a static cache, not compiled."""
        self.padded(prompts, cache_implementation="static", disable_compile=True)

    def compiled(self, prompts: list[str]) -> None:
        """`generate()` with a static cache and a decoding step compiled for this batch."""
        from transformers import CompileConfig

        config: Any = CompileConfig(fullgraph=False, mode="default", dynamic=False)
        config._compile_all_devices = True
        self.padded(prompts, cache_implementation="static", compile_config=config)

    def continuous(self, prompts: list[str]) -> None:
        """transformers' manager of continuous batching."""
        self.model.generate_batch([self.ids(prompt) for prompt in prompts], generation_config=self.settings)


@torch.inference_mode()
def attention(
    rows: int, rounds: int, heads: int = 7, width: int = 32, length: int = 160, block: int = 16
) -> dict[str, float]:
    """Microseconds of one layer's attention, one new token a row: neighbouring slots, row by row, blocks."""
    attend = torch.nn.functional.scaled_dot_product_attention
    lengths = [length - 7 * i % 40 for i in range(rows)]
    query, (keys, values) = torch.randn(rows, heads, 1, width), torch.randn(2, rows, heads, 512, width)
    paged = torch.randn(2, 600 * rows // block, block * heads * width)
    blocks = torch.randint(0, paged.shape[1], (rows * length // block,))
    bias = torch.zeros(rows, 1, 1, length)
    for row, known in enumerate(lengths):
        bias[row, ..., known:] = -torch.inf

    def gathered() -> None:
        kept, given = (side.index_select(0, blocks).view(rows, length, heads, width).transpose(1, 2) for side in paged)
        attend(query, kept, given, attn_mask=bias)

    methods: dict[str, Callable[[], Any]] = {
        "neighbouring slots": lambda: attend(query, keys[:, :, :length], values[:, :, :length], attn_mask=bias),
        "row by row": lambda: [
            attend(query[i : i + 1], keys[i : i + 1, :, :n], values[i : i + 1, :, :n]) for i, n in enumerate(lengths)
        ],
        "gathered blocks": gathered,
    }
    spent: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            started = time.perf_counter()
            for _ in range(10):
                method()
            spent[name].append((time.perf_counter() - started) * 1e5)
    return {f"{name}, {rows} rows": min(times) for name, times in spent.items()}


@torch.no_grad()
def layers(rounds: int) -> dict[str, float]:
    """Microseconds of a linear layer by torch and by the engine; with more weights than any cache holds."""
    found = {}
    for outputs, inputs in ((1216, 224), (9728, 896)):
        many = [nn.Linear(inputs, outputs, bias=False) for _ in range(max(4, 24_000_000 // (4 * outputs * inputs)))]
        ways: dict[str, list[Any]] = {"torch": many, "engine": [Linear(layer, copy=True) for layer in many]}
        for rows in (1, 4, 32):
            x = torch.randn(rows, inputs)
            spent: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(rounds):
                for name, some in ways.items():
                    started = time.perf_counter()
                    for layer in some:
                        layer(x)
                    spent[name].append((time.perf_counter() - started) / len(some) * 1e6)
            for name, times in spent.items():
                found[f"[{outputs}, {inputs}], {rows} rows, {name}"] = statistics.median(times)
    return found


def markdown(data: dict[str, Any]) -> str:
    """The figures as a section of a page."""
    lines = [
        "## Ways to decode",
        "",
        f"Made by `python -m tests.benchmarks.alternatives`, {data['date']}, {os.cpu_count()} cores "
        f"{platform.machine()}, no GPU, one thread, load average {data['load'][0]:.1f}: embedded:target, greedy, "
        f"{data['tokens']} tokens after each of 1 and 32 prompts.",
        "",
        f"| way, batch | tokens per second | first calls ({data['first']}), seconds |",
        "|---|---|---|",
    ]
    for name, rate in data["tokens_per_second"].items():
        lines.append(f"| {name} | {rate:,.0f} | {data['first_calls'][name]:.1f} |")
    lines += ["", "| one layer's attention | microseconds |", "|---|---|"]
    lines += [f"| {name} | {spent:,.0f} |" for name, spent in data["attention"].items()]
    lines += ["", "| a linear layer | microseconds |", "|---|---|"]
    lines += [f"| {name} | {spent:,.0f} |" for name, spent in data["layers"].items()]
    return "\n".join(lines) + "\n"


COMMAND = Command("alternatives", __doc__, SIZES, markdown)


def main() -> None:
    """Measure and write."""
    options = COMMAND.parse()
    torch.set_num_threads(1)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    prompts = [str(item.prompt) for item in find_task("embedded").draw(32, 1)]
    ways = {
        "fp32": Ways("target", torch.float32, options.tokens),
        "bf16": Ways("target", torch.bfloat16, options.tokens),
    }
    rates: dict[str, float] = {}
    first: dict[str, float] = {}
    for batch in (1, 32):
        methods: dict[str, Callable[[list[str]], None]] = {
            "engine": ways["fp32"].with_engine,
            "engine, bf16": ways["bf16"].with_engine,
            "generate, padded": ways["fp32"].padded,
            "generate, static cache": ways["fp32"].static,
            "generate, static cache, compiled": ways["fp32"].compiled,
            "continuous batching manager": ways["fp32"].continuous,
        }
        for name, method in methods.items():
            started = time.perf_counter()
            for _ in range(options.first):
                method(prompts[:batch])
            first[f"{name}, {batch}"] = time.perf_counter() - started
            print(f"{name}, {batch}: {first[f'{name}, {batch}']:.1f} s", file=sys.stderr, flush=True)
        spent: dict[str, list[float]] = {name: [] for name in methods}
        for i in range(options.rounds):
            for name, method in methods.items():
                started = time.perf_counter()
                method(prompts[i : i + 1] if batch == 1 else prompts)
                spent[name].append(time.perf_counter() - started)
        rates |= {
            f"{name}, {batch}": batch * options.tokens / statistics.median(times) for name, times in spent.items()
        }
    data = {
        "date": date.today().isoformat(),
        "tokens": options.tokens,
        "first": options.first,
        "tokens_per_second": rates,
        "first_calls": first,
        "attention": attention(1, options.layer_rounds) | attention(32, options.layer_rounds),
        "layers": layers(options.layer_rounds),
        "load": os.getloadavg(),
    }
    COMMAND.write(options, data)


if __name__ == "__main__":
    main()
