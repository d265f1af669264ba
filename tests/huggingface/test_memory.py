"""The memory that models need, reported before any is loaded."""

import shutil
from pathlib import Path as Folder
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma3Config,
    GPT2Config,
    GptOssConfig,
    GraniteMoeHybridConfig,
    MambaConfig,
    PreTrainedConfig,
    StableLmConfig,
)

from rsd_core import ConfigurationError, as_prompt
from rsd_core import Path as StepPath
from rsd_integrations.huggingface import load_generator, loading, memory, runner
from rsd_integrations.huggingface.context import context_of
from rsd_integrations.huggingface.kv_store import KVStore, LayerShape
from rsd_integrations.inprocess.path_cache import PathCache
from tests.huggingface.tiny import make_causal_lm

CPU = torch.device("cpu")


def test_a_need_is_what_loading_takes(tmp_path: Folder) -> None:
    folder = make_causal_lm(tmp_path / "lm", num_key_value_heads=2, tie_word_embeddings=False)
    files, raw = loading.shards(folder, "lm"), loading.read_config(folder)
    need = memory.model_memory("lm", files, raw, torch.float32)
    model = load_generator(str(folder))
    assert need.weights == sum(p.numel() * 4 for p in model.model.parameters())
    assert need.token == model.runner.store.token_bytes
    assert need.context == model.context
    assert memory.model_memory("lm", files, raw, torch.bfloat16).weights == need.weights / 2


def test_sizes_are_known_under_gpt2s_names_for_them() -> None:
    raw = GPT2Config(n_layer=3, n_head=2, n_embd=64, n_positions=128).to_dict()
    need = memory.model_memory("gpt2", [], raw, torch.float32)
    assert (need.token, need.context) == (2 * 3 * 64 * 4, 128)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}
LONG = {"type": "longrope", "long_factor": [2.0] * 16, "short_factor": [1.0] * 16}


@pytest.mark.parametrize(
    ("kind", "changes", "context"),
    [
        ("llama", {"rope_scaling": LLAMA3}, 256),
        ("qwen2", {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}, 256),
        ("phi3", {"rope_scaling": LONG, "original_max_position_embeddings": 64, "pad_token_id": 0}, 64),
    ],
)
def test_configurations_that_earlier_versions_of_transformers_wrote_are_read(
    kind: str, changes: dict[str, Any], context: int
) -> None:
    """As published models have them: Llama 3.1 and 3.2, Qwen2.5 with YaRN, Phi 3."""
    raw = {"model_type": kind, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    raw |= {"max_position_embeddings": 256, "rope_theta": 10_000.0, "num_key_value_heads": 1, **changes}
    need = memory.model_memory("mine", [], raw, torch.float32)
    assert (need.token, need.context) == (2 * 3 * 32 * 4, context)


@pytest.mark.parametrize(
    "config",
    [Gemma3Config(), MambaConfig(), Gemma2Config(), GptOssConfig(), StableLmConfig(), GraniteMoeHybridConfig()],
)
def test_models_that_do_not_run_in_process_are_refused_before_they_are_loaded(config: PreTrainedConfig) -> None:
    with pytest.raises(ConfigurationError, match=f"^mine: models of the type '{config.model_type}' do not run in proc"):
        memory.model_memory("mine", [], config.to_dict(), torch.float32)


def test_keys_and_values_of_deepseek_have_their_own_widths() -> None:
    raw = {"model_type": "deepseek_v3", "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4}
    raw |= {"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 16, "max_position_embeddings": 256}
    assert memory.model_memory("mine", [], raw, torch.float32).token == 3 * 4 * (8 + 4 + 16) * 4


def test_weights_that_are_there_twice_count_once(tmp_path: Folder) -> None:
    """Mistral's repositories hold them for transformers, and in one file for its own library."""
    folder = make_causal_lm(tmp_path)
    (file,) = loading.shards(folder, "")
    shutil.copy(file, folder / "consolidated.safetensors")
    assert loading.shards(folder, "") == [file]


def test_a_second_copy_is_held_of_weights_that_leave_room_for_others(
    tmp_path: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_causal_lm(tmp_path / "lm")
    need = memory.model_memory("lm", loading.shards(folder, "lm"), loading.read_config(folder), torch.float32)
    one = need.weights + need.sequence
    monkeypatch.setattr(memory, "free_memory", lambda _: one + 5 * need.weights)
    assert memory.weight_bytes([need], CPU) == [2 * need.weights]
    # The copy of the first takes room that the second would have to leave.
    assert memory.weight_bytes([need, need], CPU) == [2 * need.weights, need.weights]
    assert memory.weight_bytes([need], torch.device("cuda")) == [need.weights]
    monkeypatch.setattr(memory, "free_memory", lambda _: one + 3 * need.weights)
    assert memory.weight_bytes([need], CPU) == [need.weights]


def test_models_that_fit_alone_and_not_together_are_refused(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_causal_lm(tmp_path / "lm")
    need = memory.model_memory("lm", loading.shards(folder, "lm"), loading.read_config(folder), torch.float32)
    room = need.weights + need.sequence
    monkeypatch.setattr(memory, "free_memory", lambda _: room)
    assert memory.check_fit([need], CPU) == room
    with pytest.raises(ConfigurationError, match="are needed on cpu"):
        memory.check_fit([need, need], CPU)


@pytest.mark.parametrize(("room", "copied"), [(4.99, False), (5.01, True)])
def test_loading_holds_the_copies_that_were_planned(
    room: float, copied: bool, tmp_path: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_causal_lm(tmp_path / "lm")
    need = memory.model_memory("lm", loading.shards(folder, "lm"), loading.read_config(folder), torch.float32)
    before = room * need.weights + need.sequence
    monkeypatch.setattr(memory, "free_memory", lambda _: before)
    assert memory.weight_bytes([need], CPU) == [need.weights * (1 + copied)]
    monkeypatch.setattr(runner, "free_memory", lambda _: before - need.weights)  # they are loaded by then
    model = load_generator(str(folder))
    fused: Any = model.runner.fused
    layer = fused._decoder.layers[0].project
    plain = model.model.get_parameter("model.layers.0.self_attn.q_proj.weight")
    assert (layer.blocks is not None or layer.columns.data_ptr() != plain.data_ptr()) is copied


def test_what_does_not_fit_is_refused_before_it_is_loaded(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(make_causal_lm(tmp_path / "lm"))
    monkeypatch.setattr(memory, "free_memory", lambda _: 1e5)
    with pytest.raises(ConfigurationError, match=r"GiB are needed on cpu, 0.00 GiB are free.*bfloat16"):
        load_generator(folder)


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({"rope_type": "longrope", "original_max_position_embeddings": 64}, 64),
        ({"rope_type": "yarn", "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "default"}, 256),
    ],
)
def test_embeddings_that_look_at_the_longest_sequence_are_held_back(rope: dict[str, Any], context: int) -> None:
    config = PreTrainedConfig()
    config.max_position_embeddings, config.rope_parameters = 256, rope
    assert context_of(config) == context


def test_memory_is_known() -> None:
    assert 1e8 < memory.free_memory(CPU) <= memory.total_memory(CPU)


def test_room_is_made_by_candidates_that_were_not_chosen_then_by_what_was_idle_longest() -> None:
    """One that was first passed over and then chosen, as after a retry, is no longer a rejected candidate."""
    shape = LayerShape(1, 8, 8)
    store, cache = KVStore([shape], torch.float32, CPU, budget=3 * 16 * 4 * 64, context=64), PathCache()
    path = StepPath(as_prompt("question"))
    chosen, rejected, idle = (store.sequence() for _ in range(3))
    for last, sequence in enumerate((chosen, rejected, idle)):
        assert store.reserve(sequence, 3)
        sequence.ids = [7, 8, last]
        cache.put(path if sequence is not idle else StepPath(as_prompt("another")), sequence)
    assert cache.claim(path, [7, 8, 1]) is rejected
    cache.put(path, rejected)
    assert cache.claim(path, [7, 8, 0, 4]) is chosen
    fresh = [store.sequence() for _ in range(3)]
    for sequence, gone in zip(fresh, ([rejected], [rejected, chosen], [rejected, chosen, idle]), strict=True):
        sequence.activate()
        assert store.reserve(sequence, 3)
        assert [one for one in (rejected, chosen, idle) if not one.ids] == gone
