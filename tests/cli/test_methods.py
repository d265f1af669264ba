"""A configuration's method in commands."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rsd_core import RSDError
from rsd_integrations.cli.app import app

FILE = """
drafter: scripted:draft
verifier: scripted:verifier
target: scripted:target
method: {method}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(FILE.format(method="target"))
    return file


def test_run_and_batch_run_the_method(config: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["run", "q", "--json", "--config", str(config)])
    told = json.loads(shown.stdout)
    assert [step["author"] for step in told["steps"]] == ["target"] * 3
    assert told["ledger"]["drafter"]["calls"] == told["ledger"]["verifier"]["calls"] == 0
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "results.jsonl"
    prompts.write_text('"q"\n')
    CliRunner().invoke(app, ["batch", str(prompts), "--out", str(out), "--config", str(config)], catch_exceptions=False)
    row = json.loads(out.read_text(encoding="utf-8").splitlines()[-1])
    assert row["result"]["text"] == told["text"]


def test_calibrate_requires_rsd(config: Path) -> None:
    with pytest.raises(RSDError, match="rsd calibrate finds a threshold for RSD; remove the method"):
        CliRunner().invoke(app, ["calibrate", "--config", str(config)], catch_exceptions=False)


def test_an_unknown_method_is_reported_with_its_place(config: Path) -> None:
    config.write_text(FILE.format(method="majorty:8"))
    with pytest.raises(RSDError, match="method: unknown method 'majorty', did you mean 'majority'"):
        CliRunner().invoke(app, ["run", "q", "--config", str(config)], catch_exceptions=False)
