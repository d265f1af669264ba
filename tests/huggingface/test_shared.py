"""Drafter and verifier on one body, and the merging that makes such checkpoints."""

import asyncio
from pathlib import Path as Folder
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rsd_core import BinaryStep, ConfigurationError, Path, RewardGuidedDecoder, StepRequest, as_prompt, load
from rsd_core.testing import ScriptedTarget
from rsd_integrations.huggingface import load_generator, load_shared
from rsd_integrations.huggingface.merging import merge
from rsd_integrations.huggingface.shared import HEAD
from tests.conftest import Counter
from tests.huggingface.tiny import make_causal_lm

PROMPT = "Mia has 45 apples."


def with_head(folder: Folder, seed: int = 3) -> Folder:
    torch.manual_seed(seed)
    sizes = {"0": (64, 64), "2": (2, 64)}
    tensors = {f"{i}.weight": torch.randn(*size) / 4 for i, size in sizes.items()}
    save_file(tensors | {f"{i}.bias": torch.randn(size[0]) for i, size in sizes.items()}, folder / HEAD)
    return folder


@pytest.fixture
def shared(tmp_path: Folder) -> Folder:
    return with_head(make_causal_lm(tmp_path / "shared"))


@torch.inference_mode()
def reward(folder: Folder, ids: list[int]) -> float:
    """The head on what a plain pass gives at the last token."""
    body = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).model
    hidden = body(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1]
    head = load_file(folder / HEAD)
    inner = torch.relu(head["0.weight"] @ hidden + head["0.bias"])
    return float(torch.softmax(head["2.weight"] @ inner + head["2.bias"], -1)[1])


def test_a_score_costs_a_head(shared: Folder, counted: Counter) -> None:
    """Scoring runs the step's last token; writing continues from its output, so nothing runs twice."""
    writer, judge = load_generator(str(shared)), load_shared(str(shared))
    assert writer.model is judge.runner.model
    counted.watch("model", writer.model)
    path, request = Path(as_prompt(PROMPT)), StepRequest((0,), max_tokens=7)
    for depth in range(4):
        made = asyncio.run(writer.generate(path, request))
        scores = asyncio.run(judge.score(path, list(made.steps)))
        ids = [*writer.vocabulary.ids(path)[0], *made.steps[0].tokens]
        assert scores.usage.computed == 1
        assert made.usage.computed == made.usage.generated - 1 + (
            len(writer.vocabulary.ids(path)[0]) if not depth else 0
        )
        assert scores.rewards[0] == pytest.approx(reward(shared, ids), abs=1e-4)
        path = path.extend(made.steps[0])
    assert counted.tokens["model"] == len(writer.vocabulary.ids(path)[0])


def test_candidates_and_rejections_on_a_shared_body(shared: Folder) -> None:
    """Several candidates, steps by another model, and scores asked for twice."""
    writer, judge = load_generator(str(shared)), load_shared(str(shared))
    path = Path(as_prompt(PROMPT))
    for _ in range(3):
        made = asyncio.run(writer.generate(path, StepRequest((1, 2, 3), 6)))
        for steps in (made.steps, made.steps[::-1]):
            rewards = asyncio.run(judge.score(path, steps)).rewards
            for step, found in zip(steps, rewards, strict=True):
                ids = [*writer.vocabulary.ids(path)[0], *step.tokens]
                assert found == pytest.approx(reward(shared, ids), abs=1e-4)
        path = path.extend(made.steps[1])


def test_a_shared_body_decodes_by_spec(shared: Folder) -> None:
    decoder = RewardGuidedDecoder(
        drafter=load(f"hf:{shared}"),
        verifier=load(f"shared:{shared}"),
        target=ScriptedTarget(["She has 45.\n\n", "The answer is \\boxed{45}."]),
        policy=BinaryStep(delta=0.5),
    )
    assert decoder.run(PROMPT).steps


def test_a_checkpoint_without_a_head_is_refused(checkpoint: Folder) -> None:
    with pytest.raises(ConfigurationError, match=r"holds no step_head.*rsd merge"):
        load_shared(str(checkpoint))


def tensors(folder: Folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_linear_merging_averages(tmp_path: Folder) -> None:
    a, b = make_causal_lm(tmp_path / "a", 1), with_head(make_causal_lm(tmp_path / "b", 2))
    out = merge(str(a), str(b), tmp_path / "out", weight=0.25)
    for name, tensor in tensors(out).items():
        assert torch.allclose(tensor, 0.75 * tensors(a)[name] + 0.25 * tensors(b)[name], atol=1e-6)
    assert load_shared(str(out)).runner.model is load_generator(str(out)).model


def test_ties_keeps_large_changes_that_agree(tmp_path: Folder) -> None:
    base = make_causal_lm(tmp_path / "base", 0)
    name = "model.norm.weight"

    def changed(folder: str, *changes: float) -> Folder:
        made = make_causal_lm(tmp_path / folder, 0)
        weights = tensors(made)
        weights[name][: len(changes)] += torch.tensor(changes)
        save_file(weights, made / "model.safetensors", metadata={"format": "pt"})
        return made

    # Agreeing; opposed, where the larger sum wins; changed by one alone; small, so trimmed.
    a, b = changed("a", 0.4, 0.8, 0.6, 0.01), with_head(changed("b", 0.2, -0.2, 0.0, 0.0))
    out = merge(str(a), str(b), tmp_path / "out", method="ties", base=str(base), density=3 / 64)
    change = (tensors(out)[name] - tensors(base)[name])[:5].tolist()
    assert change == pytest.approx([0.3, 0.8, 0.6, 0.0, 0.0], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"weight": 1.5}, "weight must be in"), ({"method": "ties"}, "name it: --base"), ({"density": 0.0}, "density in")],
)
def test_bad_merges_are_refused_before_anything_is_read(tmp_path: Folder, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        merge("./nowhere", "./nowhere", tmp_path, **options)


def test_models_of_different_shapes_are_refused(tmp_path: Folder) -> None:
    a, b = make_causal_lm(tmp_path / "a"), with_head(make_causal_lm(tmp_path / "b", intermediate_size=128))
    with pytest.raises(ConfigurationError, match="different shapes"):
        merge(str(a), str(b), tmp_path / "out")
    assert not (tmp_path / "out").exists()
