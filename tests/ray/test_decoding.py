"""Datasets of Ray Data: the rows of one process, from many; a bad row harms no other."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
import ray.data
from ray.cluster_utils import Cluster

from rsd_core import ConfigurationError, RSDConfig
from rsd_integrations.ray import Actors, DecodeRows, decode
from rsd_integrations.ray.rows import COLUMNS

SCRIPTED = {"drafter": "scripted:draft", "verifier": "scripted:verifier", "target": "scripted:target"}
SAMPLED = RSDConfig.parse({"settings": {"temperature": 1.2, "seed": 5}})


def decoded(rows: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    """What an actor makes of a batch, in this process."""
    made: list[dict[str, Any]] = DecodeRows(SCRIPTED, **options)(pa.Table.from_pylist(rows)).to_pylist()
    return made


def test_a_row_gets_what_one_process_gives_its_prompt_and_repeat_number(questions: list[str]) -> None:
    asked: list[dict[str, Any]] = [{"prompt": text, "n": n % 2} for n, text in enumerate(sorted(questions[:12] * 2))]
    expected = SAMPLED.build().run_many([row["prompt"] for row in asked])
    assert any(first.text != second.text for first, second in zip(expected[::2], expected[1::2], strict=True))
    actor = DecodeRows(SAMPLED.model_dump(mode="json"), repeat_column="n", prefix="rsd_", concurrency=8)
    blocks = [pa.Table.from_pylist(asked[at : at + 7]) for at in (21, 0, 14, 7)]  # however they are cut, and come
    rows = [row for block in blocks for row in actor(block).to_pylist()]
    for row, result in zip(rows[3:10] + rows[17:] + rows[10:17] + rows[:3], expected, strict=True):
        told: Any = result.ledger.to_dict()
        assert (row["rsd_text"], row["rsd_answer"]) == (result.text, result.answer)
        assert row["rsd_finish_reason"] == result.finish_reason
        assert row["rsd_ledger"].keys() == told.keys()
        assert row["rsd_ledger"]["drafter"]["generated"] == told["drafter"]["generated"]


def test_a_node_that_dies_costs_a_dataset_no_row_and_doubles_none(cluster: Cluster) -> None:
    third = cluster.add_node(num_cpus=1)
    asked = [{"prompt": f"question {n}", "n": n} for n in range(200)]
    slow = RSDConfig.parse({**SCRIPTED, "drafter": "scripted,delay=0.05:draft"})
    dataset = decode(ray.data.from_items(asked), slow, actors=Actors(count=3, concurrency=4), rows=4, keep_order=True)
    rows = []
    for row in dataset.iter_rows():
        rows.append(row)
        if len(rows) == 60:
            cluster.remove_node(third, allow_graceful=False)
    assert [row["n"] for row in rows] == list(range(200))
    assert {row["answer"] for row in rows} == {"10"}


def test_rows_that_cannot_be_asked_have_an_error_and_harm_no_other() -> None:
    asked: list[dict[str, Any]] = [{"prompt": "one"}, {"prompt": ""}, {"prompt": None}, {}, {"prompt": "two"}]
    rows = decoded(asked)
    assert [row["answer"] for row in rows] == ["10", None, None, None, "10"]
    wrong = [row["error"] for row in rows]
    assert wrong[0] is wrong[4] is None
    assert all("empty" in str(error) for error in wrong[1:2])
    assert all("no 'prompt'" in str(error) for error in wrong[2:4])
    assert rows[1]["ledger"] is None


def test_a_column_of_messages_is_a_column_of_prompts() -> None:
    whole = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one"}]
    odd = [{"role": "nobody", "content": "one"}]
    rows = decoded([{"chat": whole}, {"chat": odd}], prompt_column="chat")
    assert rows[0]["answer"] == "10"
    assert "is not a message" in rows[1]["error"]


def test_an_invalid_repeat_number_is_an_error_of_its_row() -> None:
    rows = decoded(
        [{"prompt": "one", "r": 1}, {"prompt": "one", "r": None}, {"prompt": "one", "r": -1}], repeat_column="r"
    )
    assert [row["error"] is None for row in rows] == [True, False, False]
    assert "must be an integer of at least 0 (got -1)" in rows[2]["error"]


def test_what_a_failed_row_had_written_is_kept() -> None:
    config = RSDConfig.parse({**SCRIPTED, "target": "openai,patience=0,retries=0:m@http://127.0.0.1:9/v1"})
    (row,) = DecodeRows(config.model_dump(mode="json"))(pa.table({"prompt": ["one"]})).to_pylist()
    assert row["error"]
    assert row["finish_reason"] == "error"
    assert row["text"].startswith("There are 3 rows")
    assert row["ledger"]["target"]["failed"] == row["ledger"]["target"]["calls"] > 0


def test_every_block_has_the_same_types_whatever_is_known_in_it() -> None:
    good = DecodeRows(SCRIPTED)(pa.table({"prompt": ["one"]}))
    bad = DecodeRows(SCRIPTED)(pa.table({"prompt": [""]}))
    assert good.schema == bad.schema
    assert good.schema.names == ["prompt", *COLUMNS.names]


@pytest.mark.usefixtures("cluster")
def test_columns_that_do_not_fit_are_reported_before_anything_runs() -> None:
    config = RSDConfig.parse(SCRIPTED)
    with pytest.raises(ConfigurationError, match=r"no column 'prompt'; it has question, answer"):
        decode(ray.data.from_items([{"question": "one", "answer": "1"}]), config, prefix="rsd_")
    with pytest.raises(
        ConfigurationError, match=r"already has result columns: answer; rename them, or .*prefix='rsd_'"
    ):
        decode(ray.data.from_items([{"prompt": "one", "answer": "1"}]), config)
    with pytest.raises(ConfigurationError, match="rows must be an integer of at least 1"):
        decode(ray.data.from_items([{"prompt": "one"}]), config, rows=0)
    with pytest.raises(ConfigurationError, match="already has result columns: text"):
        DecodeRows(SCRIPTED)(pa.table({"prompt": ["one"], "text": ["two"]}))
