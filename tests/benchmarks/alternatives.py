"""transformers' own ways of decoding beside the engine: `python -m tests.benchmarks.alternatives --json FILE`.

The target writes greedy answers, as plain decoding: what reward-guided decoding needs besides (rolling back, branching,
scoring, three models that share a device) none of the others offers. Tokens per second, medians over rounds, all
methods in turn. The compiled one is compiled before it is timed.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from rsd_core import Limits, Settings, TargetOnly
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.evaluation.tasks import find_task
from rsd_integrations.huggingface import load_generator
from rsd_integrations.huggingface.loading import load_tokenizer

TOKENS = 60


class Ways:
    """Ways to write the first sixty tokens of answers; the answers end nowhere before, so all write the same number."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        folder = FOLDER / name
        self.tokenizer: Any = load_tokenizer(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self.model.generation_config.eos_token_id = None
        self.settings: Any = copy.deepcopy(self.model.generation_config)
        self.settings.max_new_tokens, self.settings.eos_token_id = TOKENS, -1
        engine = load_generator(str(folder), dtype=str(dtype).removeprefix("torch."))
        engine._ends = frozenset()
        engine._step_ends.clear()
        limits = Limits(max_tokens=TOKENS, max_repeats=None)
        self.engine = TargetOnly(target=engine, settings=Settings(limits=limits))

    def ids(self, prompt: str) -> list[int]:
        """A prompt as the models read it."""
        messages = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def with_engine(self, prompts: list[str]) -> None:
        """This project."""
        self.engine.run_many(prompts)

    def padded(self, prompts: list[str], **options: Any) -> None:
        """`generate()` on one padded batch."""
        rows = [self.ids(prompt) for prompt in prompts]
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        self.model.generate(ids, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0, **options)

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


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    prompts = [str(item.prompt) for item in find_task("embedded").draw(32, 1)]
    ways = {"fp32": Ways("target", torch.float32), "bf16": Ways("target", torch.bfloat16)}
    rows: dict[str, Any] = {}
    for batch in (1, 32):
        methods: dict[str, Callable[[list[str]], None]] = {
            "engine": ways["fp32"].with_engine,
            "engine, bf16": ways["bf16"].with_engine,
            "generate, padded": ways["fp32"].padded,
            "generate, static cache": ways["fp32"].static,
            "generate, static cache, compiled": ways["fp32"].compiled,
            "continuous batching manager": ways["fp32"].continuous,
        }
        spent: dict[str, list[float]] = {}
        for name, method in methods.items():
            started = time.perf_counter()
            try:
                method(prompts[:batch])
                method(prompts[:batch])
            except Exception as error:
                rows[f"{name}, batch {batch}"] = f"failed: {type(error).__name__}: {error}"[:200]
            else:
                spent[name] = []
                print(f"{name}, batch {batch}: first two calls {time.perf_counter() - started:.1f} s", flush=True)
        for i in range(options.rounds):
            for name in spent:
                asked = prompts[i : i + 1] if batch == 1 else prompts
                started = time.perf_counter()
                methods[name](asked)
                spent[name].append(batch * TOKENS / (time.perf_counter() - started))
        rows |= {f"{name}, batch {batch}": statistics.median(rates) for name, rates in spent.items()}
    data = {"tokens_per_second": rows, "load": os.getloadavg()}
    options.json.write_text(json.dumps(data, indent=1) + "\n")
    print(json.dumps(data, indent=1))


if __name__ == "__main__":
    main()
