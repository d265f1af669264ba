"""The example of the guide runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from tests.docs.blocks import ROOT, blocks


@pytest.mark.usefixtures("cluster")
def test_the_example_of_the_guide_runs(tmp_path: Path) -> None:
    prompts, example = blocks(ROOT / "docs" / "guides" / "ray.md")[:2]
    assert (prompts.file, example.language) == ("prompts.jsonl", "python")
    (tmp_path / "prompts.jsonl").write_text(prompts.body)
    body = re.sub(r'"(prompts.jsonl|answers)"', rf'"{tmp_path}/\1"', example.body)  # the nodes were started elsewhere
    exec(compile(body, example.page, "exec"), {})
    rows = parquet.read_table(tmp_path / "answers").to_pylist()
    assert sorted(str(row["answer"]) for row in rows) == ["44", "57", "None"]
    assert [bool(row["error"]) for row in rows].count(True) == 1
