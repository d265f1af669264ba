"""The engine: batches of any callers, memory that is bounded, architectures of all kinds, and nothing left behind."""

import asyncio
import copy
import gc
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path as Folder
from typing import Any

import pytest
import torch
import transformers

from rsd_core import ConfigurationError, Path, Sampling, Step, StepRequest, as_prompt
from rsd_integrations.huggingface import (
    HuggingFaceGenerator,
    HuggingFaceLikelihood,
    load_generator,
    load_likelihood,
    load_verifier,
)
from tests.huggingface.soak import CALLS, KINDS, PROMPTS, Soak, check_store
from tests.huggingface.tiny import make_causal_lm, make_prm, tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 640,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@pytest.fixture
def reference(checkpoint: Folder) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)


def test_random_work_in_little_memory_ends_with_right_caches(checkpoint: Folder, reference: Any) -> None:
    """Room for three sequences, six requests: most of what is cached is evicted before it is used again."""
    budget = 3.5 * 256 * 2 * 2 * 32 * 4
    writer = load_generator(str(checkpoint), cache_bytes=budget)
    soak = Soak(writer, load_likelihood(str(checkpoint), cache_bytes=budget), reference)
    asyncio.run(soak.run(500))
    assert soak.evicted > 100
    assert set(soak.done) == set(KINDS)
    assert all(soak.cut_short[call] > 5 for call in CALLS), soak.cut_short
    assert writer.runner.store.bytes <= budget


def test_without_need_nothing_is_evicted(checkpoint: Folder, reference: Any) -> None:
    soak = Soak(load_generator(str(checkpoint)), load_likelihood(str(checkpoint)), reference)
    asyncio.run(soak.run(300, seed=1))
    assert soak.evicted == 0


def test_a_cache_that_holds_no_sequence_is_refused(checkpoint: Folder) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot hold one sequence of 256 tokens.*raise cache_bytes"):
        load_generator(str(checkpoint), cache_bytes=1000)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Llama", {}),
        ("Mistral", {"sliding_window": 12}),
        ("Qwen3", {"num_key_value_heads": 4}),
        ("Gemma", {"head_dim": 32, "num_key_value_heads": 1}),
        ("Phi3", {}),
        ("Cohere", {"logit_scale": 0.5}),
        ("Granite", {"logits_scaling": 2.0}),
        ("DeepseekV3", {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
                        "moe_intermediate_size": 32, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8,
                        "qk_nope_head_dim": 8, "v_head_dim": 12, "num_key_value_heads": 4, "head_dim": 8}),
    ],
)  # fmt: skip
def test_any_architecture_gives_what_generate_gives(kind: str, changes: dict[str, Any]) -> None:
    """Grouped heads, sliding windows, scaled logits, values of another width than keys: in ragged batches."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES | changes)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    wanted = [plain(model, prompt, 24) for prompt in PROMPTS]
    engine = HuggingFaceGenerator(copy.deepcopy(model), tokenizer(), kind)
    paths = bare()
    assert written(engine, paths, 24) == wanted
    if kind != "DeepseekV3":  # whose own cache holds something that keys and values are made of
        assert check_store(engine, model) > 24 * len(paths)


@pytest.mark.parametrize("kind", ["Mamba", "Bloom", "Gemma2", "GptOss"])
def test_a_model_that_cannot_run_in_batches_is_refused(kind: str) -> None:
    config = getattr(transformers, f"{kind}Config")(**SIZES)
    with pytest.raises(ConfigurationError, match=f"^{kind}"):
        HuggingFaceGenerator(getattr(transformers, f"{kind}ForCausalLM")(config).eval(), tokenizer(), kind)


def test_attention_of_an_unknown_kind_is_refused() -> None:
    """A short probe cannot tell chunked from full attention, so the configuration has to."""
    chunked: dict[str, Any] = {"layer_types": ["chunked_attention"] * 3}
    experts: dict[str, Any] = {"num_local_experts": 2, "intermediate_size_mlp": 96}
    model: Any = transformers.Llama4ForCausalLM(transformers.Llama4TextConfig(**SIZES, **chunked, **experts))
    with pytest.raises(ConfigurationError, match="its layer 0 has chunked_attention"):
        HuggingFaceGenerator(model.eval(), tokenizer(), "llama4")


def plain(model: Any, prompt: str, count: int) -> list[int]:
    """Greedy tokens by transformers' own `generate()`, ended as a step's would be."""
    ids = prompt_ids(prompt)
    row: list[int] = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)[0, len(ids) :].tolist()
    return row[: row.index(2)] if 2 in row else row


def prompt_ids(prompt: str) -> list[int]:
    text = tokenizer().apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer()(text, add_special_tokens=False)["input_ids"])


def written(model: HuggingFaceGenerator, paths: list[Path], count: int) -> list[list[int]]:
    """Greedy tokens by the engine, all paths at once."""

    async def all_at_once() -> list[list[int]]:
        request = StepRequest((0,), max_tokens=count, delimiter=None)
        made = await asyncio.gather(*(model.generate(path, request) for path in paths))
        return [list(each.steps[0].tokens) for each in made]

    return asyncio.run(all_at_once())


def bare() -> list[Path]:
    return [Path(as_prompt(prompt)) for prompt in PROMPTS]


def test_callers_of_all_threads_and_loops_share_forward_passes(checkpoint: Folder) -> None:
    model = load_generator(str(checkpoint))
    alone = written(model, bare(), 30)
    passes = model.runner.passes
    made: list[list[int]] = [[] for _ in PROMPTS]
    barrier = threading.Barrier(len(PROMPTS))

    def caller(i: int) -> None:
        barrier.wait()
        made[i] = written(model, [bare()[i]], 30)[0]  # its own event loop

    threads = [threading.Thread(target=caller, args=(i,)) for i in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == alone
    assert model.runner.passes - passes < 30 * len(PROMPTS)


def test_a_sampled_step_is_the_same_in_any_company(checkpoint: Folder) -> None:
    model = load_generator(str(checkpoint))

    async def write(seeds: list[int]) -> list[Step]:
        sampling = [Sampling(1.0, 0.9 if seed % 2 else 1.0) for seed in seeds]
        made = await asyncio.gather(
            *(
                model.generate(Path(as_prompt(PROMPTS[0])), StepRequest((seed,), 12, sampling=chosen))
                for seed, chosen in zip(seeds, sampling, strict=True)
            )
        )
        return [each.steps[0] for each in made]

    together = asyncio.run(write(list(range(8))))
    assert together == [asyncio.run(write([seed]))[0] for seed in range(8)]
    assert len(set(together)) > 4


def test_candidates_share_what_they_have_in_common(checkpoint: Folder) -> None:
    """The prompt is computed once for all candidates, and whichever is chosen was computed already."""
    model = load_generator(str(checkpoint))
    path = Path(as_prompt(PROMPTS[1]))
    request = StepRequest(tuple(range(5)), 10, sampling=Sampling(1.0))
    made = asyncio.run(model.generate(path, request))
    prompt = len(model.vocabulary.ids(path)[0])
    assert made.usage.computed == prompt + sum(step.size - 1 for step in made.steps)
    for step in made.steps[::-1]:
        usage = asyncio.run(model.generate(path.extend(step), StepRequest((0,), 1))).usage
        assert usage.computed == (1 if step.ending != "end" else 0) + (usage.generated - 1) or step.ending == "end"


def test_a_path_takes_its_cache_with_it(checkpoint: Folder) -> None:
    model = load_generator(str(checkpoint))
    path = Path(as_prompt(PROMPTS[0]))
    asyncio.run(model.generate(path, StepRequest((0, 1), 5)))
    assert len(model.runner.store.live) == 2
    gc.disable()  # at once, and not when the garbage is collected
    try:
        del path
        wait_until(lambda: not model.runner.store.live)
    finally:
        gc.enable()


def test_a_model_that_nobody_uses_is_freed_at_once(checkpoint: Folder, tmp_path: Folder) -> None:
    """Weights of gigabytes cannot wait for the garbage collector."""
    models: list[Any] = [load_generator(str(checkpoint)), load_verifier(str(make_prm(tmp_path / "prm")))]
    asyncio.run(models[0].generate(Path(as_prompt(PROMPTS[0])), StepRequest((0,), 5)))
    asyncio.run(models[1].score(Path(as_prompt(PROMPTS[0])), [Step("No.\n\n", "delimiter")]))
    alive = [weakref.ref(model.runner.model) for model in models]
    gc.collect()
    gc.disable()
    try:
        models.clear()
        wait_until(lambda: not any(ref() for ref in alive))
    finally:
        gc.enable()


def wait_until(reached: Callable[[], bool]) -> None:
    """The engine may still be leaving its last step."""
    deadline = time.monotonic() + 5
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_fault_of_the_model_reaches_every_caller_and_ends_there(checkpoint: Folder) -> None:
    model = load_generator(str(checkpoint))
    before = written(model, bare(), 8)
    plain_run = model.runner._run

    def broken(*_: object) -> Any:
        raise RuntimeError("out of memory")

    model.runner._run = broken  # type: ignore[method-assign,assignment]
    with pytest.raises(RuntimeError, match="out of memory"):
        written(model, bare(), 8)
    model.runner._run = plain_run  # type: ignore[method-assign]
    assert written(model, bare(), 8) == before


def test_the_verifier_reads_a_scored_step_once(tmp_path: Folder) -> None:
    model: HuggingFaceLikelihood = load_likelihood(str(make_causal_lm(tmp_path / "lm")))
    path = Path(as_prompt(PROMPTS[0]))
    for text in ("She buys 12 more.\n\n", "No.\n\n"):
        step = Step(text, "delimiter")
        usage = asyncio.run(model.score(path, [step])).usage
        assert usage.computed == (
            usage.prefix if path.depth == 0 else len(model.vocabulary.ids.after(path, [step]).feeds[0])
        )
        assert (
            asyncio.run(model.score(path, [step])).usage.computed
            == len(model.vocabulary.ids.after(path, [step]).feeds[0]) + 1
        )
        path = path.extend(step)
