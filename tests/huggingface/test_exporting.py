"""A reward model in the layout that vLLM knows has the scores that it was published with."""

import json
import shutil
from pathlib import Path as Folder

import pytest
import torch

from rsd_core import ConfigurationError
from rsd_integrations.huggingface.exporting import export
from tests.huggingface.reward_models import CASES, make, put_on, weights

HIDDEN = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize(("case", "outputs"), [("skywork", 1), ("skywork-sharded", 1), ("trl", 2), ("qwen", 2)])
def test_the_head_keeps_its_scores_and_the_body_its_weights(case: str, outputs: int, tmp_path: Folder) -> None:
    model = make(case, tmp_path / case)
    out = export(str(model), tmp_path / "out")
    before, after = weights(model), weights(out)
    inner = torch.relu(HIDDEN @ after["score.0.weight"].T + after["score.0.bias"])
    logits = inner @ after["score.2.weight"].T + after["score.2.bias"]
    scores = torch.sigmoid(logits[:, 0]) if outputs == 1 else torch.softmax(logits, -1)[:, 1]
    assert logits.shape[1] == outputs
    assert torch.allclose(scores, CASES[case].head(before, HIDDEN, HIDDEN), atol=1e-6)
    body = {name for name in before if not name.startswith(("score", "v_head"))}
    assert {name for name in after if not name.startswith("score.")} == body
    assert all(torch.equal(before[name], after[name]) for name in body)
    told = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(told) == set(after)
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == [{1: "Qwen2ForRewardModel", 2: "Qwen2ForProcessRewardModel"}[outputs]]
    assert "auto_map" not in config
    assert (out / "tokenizer.json").read_text() == (model / "tokenizer.json").read_text()


def test_other_models_and_folders_in_use_are_refused(tmp_path: Folder) -> None:
    for case, options in (("actprm", {}), ("math-shepherd", {"format": "math-shepherd"})):
        with pytest.raises(ConfigurationError, match="cannot be exported to a layout that vLLM serves"):
            export(str(make(case, tmp_path / case)), tmp_path / "out", **options)
    with pytest.raises(ConfigurationError, match="already contains a checkpoint"):
        export(str(tmp_path / "actprm"), tmp_path / "actprm")
    llama = put_on(
        Folder(shutil.copytree(make("skywork", tmp_path / "skywork"), tmp_path / "llama")), {}, model_type="llama"
    )
    with pytest.raises(ConfigurationError, match=r"llama \(llama, format skywork-prm\)"):
        export(str(llama), tmp_path / "out")
    assert not (tmp_path / "out").exists()
