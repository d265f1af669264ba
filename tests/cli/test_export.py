"""`rsd export` as a user types it: GGUF files from checkpoints, and checkpoints from GGUF files."""

import sys
from pathlib import Path

import pytest

from rsd_core import ConfigurationError, MissingDependency
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.huggingface import load_generator
from rsd_integrations.llamacpp.model import Model
from tests.cli.test_cli import rsd
from tests.huggingface.reward_models import make
from tests.huggingface.tiny import make_causal_lm


def test_there_and_back(tmp_path: Path) -> None:
    file, folder = tmp_path / "draft.gguf", tmp_path / "draft"
    assert f"written to {file}: gguf:{file}" in rsd("export", "--gguf", str(FOLDER / "draft"), str(file)).replace(
        "\n", ""
    )
    assert Model.load(file).architecture == "qwen2"
    assert f"hf:{folder}" in rsd("export", "--from-gguf", str(file), str(folder)).replace("\n", "")
    own, back = load_generator(str(FOLDER / "draft")), load_generator(str(folder))
    assert own.vocabulary.identity == back.vocabulary.identity
    with pytest.raises(ConfigurationError, match="exists; choose another file"):
        rsd("export", "--gguf", str(FOLDER / "draft"), str(file))
    with pytest.raises(ConfigurationError, match="already contains a checkpoint"):
        rsd("export", "--from-gguf", str(file), str(folder))


def test_types_and_formats(tmp_path: Path) -> None:
    model = make_causal_lm(tmp_path / "model")
    sizes = {}
    for kind in ("f32", "f16", "q8_0"):
        rsd("export", "--gguf", str(model), str(tmp_path / f"{kind}.gguf"), "--type", kind)
        sizes[kind] = (tmp_path / f"{kind}.gguf").stat().st_size
    assert sizes["f32"] > sizes["f16"] > sizes["q8_0"]
    rsd("export", "--from-gguf", str(tmp_path / "f32.gguf"), str(tmp_path / "half"), "--dtype", "bfloat16")
    halved = (tmp_path / "half" / "model.safetensors").stat().st_size
    assert halved < 0.6 * (model / "model.safetensors").stat().st_size
    reward = make("math-shepherd", tmp_path / "reward")
    rsd("export", "--gguf", str(reward), str(tmp_path / "reward.gguf"), "--format", "math-shepherd")
    assert Model.load(tmp_path / "reward.gguf").metadata["rsd.prm_format"] == "math-shepherd"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--gguf", "--from-gguf", "a", "b"), "--gguf writes a GGUF file and --from-gguf reads one; give one of them"),
        (("a.gguf", "b"), "a.gguf is a GGUF file; to make it a checkpoint: rsd export --from-gguf a.gguf FOLDER"),
        (("a", "b.gguf"), "b.gguf is named like a GGUF file; to write one: rsd export --gguf a b.gguf"),
        (("--gguf", "a", "b"), "b is not a name of a GGUF file; name it b.gguf"),
        (("a", "b", "--type", "f16"), "--type f16 only applies to --gguf"),
        (("--from-gguf", "a.gguf", "b", "--type", "f16"), "--type f16 only applies to --gguf"),
        (("--gguf", "a", "b.gguf", "--dtype", "float32"), "--dtype float32 only applies to --from-gguf"),
        (("--from-gguf", "a.gguf", "b", "--format", "trl"), "--format trl only applies to a reward model"),
        (("--gguf", "./a", "b.gguf", "--type", "q4_k_m"), "type 'q4_k_m' is unknown; choose one of f32, f16, q8_0"),
        (("--from-gguf", "./none.gguf", "b"), "there is no file './none.gguf'"),
    ],
)
def test_what_was_meant_is_reported(
    words: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        rsd("export", *words)
    assert told in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingDependency, match=r"rsd-decoding\[gguf\]"):
        rsd("export", "--gguf", str(FOLDER / "draft"), str(tmp_path / "draft.gguf"))
