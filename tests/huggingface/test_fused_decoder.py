"""The fused forward pass: the model's own results on the same weights, and only if its modules are as expected."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path as Folder
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from rsd_integrations.huggingface import fused_decoder, linear
from rsd_integrations.huggingface.attention import Batch
from rsd_integrations.huggingface.fused_decoder import FusedDecoder
from rsd_integrations.huggingface.runner import TorchRunner
from tests.huggingface.test_engine import SIZES


def make(kind: str = "Qwen2", **changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = {name: size for name, size in SIZES.items() if name != "head_dim"}
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes | changes))
    for weight in model.parameters():  # norms and biases begin as ones and zeros
        nn.init.normal_(weight, 1.0 if weight.dim() == 1 else 0.0, 0.3)
    return model.eval()


def some_texts() -> list[list[int]]:
    return [torch.randint(3, 640, (length,)).tolist() for length in (30, 7, 41)]


@torch.inference_mode()
def alone(model: Any, texts: list[list[int]]) -> list[Tensor]:
    """Logits of each text by the model itself."""
    return [model(input_ids=torch.tensor([text]), use_cache=False).logits[0].float() for text in texts]


@torch.inference_mode()
def packed(runner: TorchRunner, texts: list[list[int]]) -> list[Tensor]:
    """Logits of texts read side by side, all but the last three tokens at once and those one by one."""
    sequences = [runner.store.sequence() for _ in texts]
    for sequence, text in zip(sequences, texts, strict=True):
        sequence.activate()
        assert runner.store.reserve(sequence, len(text))
    spans = [(0, len(text) - 3) for text in texts], *([(len(text) - 3 + i, 1) for text in texts] for i in range(3))
    found: list[list[Tensor]] = [[] for _ in texts]
    for span in spans:
        ids = [id_ for text, (known, new) in zip(texts, span, strict=True) for id_ in text[known : known + new]]
        batch = Batch(runner.store, [(s.slot or 0, *part) for s, part in zip(sequences, span, strict=True)], ids)
        logits = runner._run(batch, list(range(len(ids)))).logits
        some = runner._run(batch, list(range(0, len(ids), 2))).logits  # again, for some of the tokens alone
        assert logits is not None
        assert some is not None
        near = float(logits.abs().max()) * (0.05 if logits.dtype is torch.bfloat16 else 1e-4)
        assert torch.allclose(some, logits[::2], atol=near)
        for rows, part in zip(found, logits.split([new for _, new in span]), strict=True):  # type: ignore[no-untyped-call]
            rows.append(part)
    return [torch.cat(rows).float() for rows in found]


@pytest.mark.parametrize(("scripted", "blocks"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Llama", {"head_dim": 32}),
        ("Llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                                       "high_freq_factor": 4.0, "original_max_position_embeddings": 16}}),
        ("Mistral", {"sliding_window": 12}),
        ("Qwen2", {}),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
        ("Qwen2", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}),
        ("Qwen3", {"head_dim": 16, "num_key_value_heads": 4}),
    ],
)  # fmt: skip
def test_it_gives_what_the_model_gives(
    kind: str, changes: dict[str, Any], scripted: bool, blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_decoder, "SCRIPT_AFTER", 0 if scripted else 10**9)
    monkeypatch.setattr(linear, "BLOCKS_FROM", 0 if blocks else 10**9)
    model = make(kind, **changes)
    texts = some_texts()
    exact, rough = torch.cat(alone(model, texts)), torch.cat(alone(copy.deepcopy(model).bfloat16(), texts))
    for dtype in (torch.float32, torch.bfloat16):
        runner = TorchRunner(copy.deepcopy(model).to(dtype), threads=1)
        assert runner.fused is not None
        found = torch.cat(packed(runner, texts))
        if dtype is torch.float32:
            assert torch.allclose(found, exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))
        else:  # as near to the exact numbers as the model's own modules in this dtype
            assert (found - exact).norm() < 1.3 * (rough - exact).norm()


def test_it_runs_without_the_interpreter_where_torch_can_once_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_decoder, "SCRIPT_AFTER", 10**9)
    runner, texts = TorchRunner(make(), threads=1), some_texts()
    decoder: Any = runner.fused
    before = packed(runner, texts)
    assert not isinstance(decoder._decoder, torch.jit.ScriptModule)
    monkeypatch.setattr(fused_decoder, "SCRIPT_AFTER", decoder._passes + 1)
    after = packed(runner, texts)
    assert isinstance(decoder._decoder, torch.jit.ScriptModule) == (sys.version_info < (3, 14))
    assert all(map(torch.equal, before, after))  # to the bit: a result does not depend on how many came before it


def test_what_cannot_be_scripted_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_sources(*_: object) -> None:
        raise OSError("could not get source code")

    monkeypatch.setattr(fused_decoder, "SCRIPT_AFTER", 0)
    monkeypatch.setattr(torch.jit, "script", no_sources)
    model = make()
    texts = some_texts()
    wanted = alone(model, texts)
    runner = TorchRunner(model, threads=1)
    assert runner.fused is not None
    for found, logits in zip(packed(runner, texts), wanted, strict=True):
        assert torch.allclose(found, logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))


def hooked(model: Any) -> None:
    model.model.layers[1].register_forward_hook(lambda _module, _args, out: out * 2)


def rewritten(model: Any) -> None:
    plain = model.model.norm.forward
    model.model.norm.forward = lambda x: 2 * plain(x)


def adapted(model: Any) -> None:
    class Adapted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model.model.layers[0].mlp.up_proj.__class__ = Adapted


def gated(model: Any) -> None:
    model.model.layers[0].mlp.act_fn = nn.GELU()


@pytest.mark.parametrize("change", [hooked, rewritten, adapted, gated])
def test_a_model_that_was_changed_runs_through_its_modules(change: Callable[[Any], None]) -> None:
    model = make()
    change(model)
    texts = some_texts()
    wanted = alone(model, texts)
    runner = TorchRunner(model, threads=1)
    assert runner.fused is None
    for found, logits in zip(packed(runner, texts), wanted, strict=True):
        assert torch.allclose(found, logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Llama", {"attention_bias": True}),
        ("Qwen2", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}}),
        ("Qwen2", {"hidden_act": "gelu"}),
        ("Gemma", {"head_dim": 16}),
    ],
)
def test_what_is_not_known_runs_through_its_modules(kind: str, changes: dict[str, Any]) -> None:
    assert TorchRunner(make(kind, **changes), threads=1).fused is None


def test_a_fused_pass_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = FusedDecoder.__call__

    def wrong(self: FusedDecoder, batch: Batch, wanted: Tensor | None) -> tuple[Tensor, Tensor | None]:
        hidden, logits = plain(self, batch, wanted)
        return hidden, None if logits is None else logits.roll(1, -1)

    monkeypatch.setattr(FusedDecoder, "__call__", wrong)
    assert TorchRunner(make(), threads=1).fused is None


def test_the_weights_are_held_once_and_stay_the_models(tmp_path: Folder) -> None:
    model, ids = make(), torch.arange(3, 20)[None]
    wanted = model(input_ids=ids).logits
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    runner = TorchRunner(model, threads=1)
    assert runner.fused is not None
    weight = model.model.layers[0].self_attn.k_proj.weight
    assert weight.untyped_storage().data_ptr() == model.model.layers[0].self_attn.q_proj.weight.data_ptr()
    model.save_pretrained(tmp_path)
    for same in (model, transformers.AutoModelForCausalLM.from_pretrained(tmp_path)):
        assert all(torch.equal(tensor, state[name]) for name, tensor in same.state_dict().items())
    model.set_attn_implementation("sdpa")
    assert torch.allclose(model(input_ids=ids).logits, wanted, atol=1e-4)
    model(input_ids=ids).logits.sum().backward()  # they can still be trained
