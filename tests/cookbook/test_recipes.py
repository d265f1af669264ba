"""The recipes with real servers: every configuration is read, and its models made, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rsd_core import RewardGuidedDecoder, RSDConfig
from tests.cookbook.build import FOLDER

RECIPES = FOLDER / "recipes"
CONFIGURATIONS = sorted(file for file in RECIPES.glob("*.yaml") if "drafter:" in file.read_text())
SERVING = sorted(set(RECIPES.glob("*.yaml")) - set(CONFIGURATIONS))


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reward models behind servers need the tokenizer of their model; the family's stands in for it."""
    from transformers import AutoTokenizer

    from rsd_integrations.embedded.models import FOLDER as FAMILY

    original: Any = AutoTokenizer.from_pretrained
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **options: original(FAMILY / "prm"))


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.stem)
@pytest.mark.usefixtures("no_hub")
def test_a_configuration_makes_a_decoder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROVIDER_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "not-a-key")
    with RSDConfig.parse(yaml.safe_load(file.read_text())).build() as decoder:
        assert isinstance(decoder, RewardGuidedDecoder)
        assert "not-a-key" not in repr(decoder.models)


def test_every_file_is_told_of_and_serving_files_name_the_models_of_the_configuration() -> None:
    page = (RECIPES / "README.md").read_text()
    assert all(f"]({file.name})" in page for file in (*CONFIGURATIONS, *SERVING))
    replicas = RSDConfig.parse(yaml.safe_load((RECIPES / "replicas.yaml").read_text()))
    cluster = list(yaml.safe_load_all((RECIPES / "kubernetes.yaml").read_text()))
    assert [one["kind"] for one in cluster] == ["Deployment", "Service"] * 3
    for spec, deployment in zip((replicas.drafter, replicas.target, replicas.verifier), cluster[::2], strict=True):
        model, _, url = spec.partition(":")[2].partition("@")
        assert model in deployment["spec"]["template"]["spec"]["containers"][0]["args"]
        assert url == f"http://{deployment['metadata']['name']}/v1"
    ray = yaml.safe_load((RECIPES / "ray-serve.yaml").read_text())["applications"][0]["args"]["llm_configs"]
    served = [one["model_loading_config"]["model_source"] for one in ray]
    assert served == [spec.partition(":")[2].partition("@")[0] for spec in (replicas.drafter, replicas.target)]
