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


def test_a_dataset_gets_what_one_process_gets_though_a_node_dies(cluster: Cluster, questions: list[str]) -> None:
    """In its own order, no row twice and none lost, each with the result that its prompt and repeat number have."""
    third = cluster.add_node(num_cpus=1)
    asked = [{"prompt": text, "n": n, "repeat": n % 2} for n, text in enumerate(sorted(questions[:24] * 2))]
    actors, columns = Actors(count=3), {"repeat_column": "repeat", "prefix": "rsd_"}
    rows = []
    for row in decode(
        ray.data.from_items(asked), SAMPLED, actors=actors, rows=4, keep_order=True, **columns
    ).iter_rows():
        rows.append(row)
        if len(rows) == 8:
            cluster.remove_node(third, allow_graceful=False)
    expected = SAMPLED.build().run_many([row["prompt"] for row in asked])
    assert [row["n"] for row in rows] == list(range(48))
    assert [row["rsd_text"] for row in rows] == [result.text for result in expected]
    assert any(first.text != second.text for first, second in zip(expected[::2], expected[1::2], strict=True))
    for row, result in zip(rows, expected, strict=True):
        told: Any = result.ledger.to_dict()
        assert row["rsd_ledger"].keys() == told.keys()
        assert row["rsd_ledger"]["drafter"]["generated"] == told["drafter"]["generated"]
        assert (row["rsd_answer"], row["rsd_finish_reason"]) == (result.answer, result.finish_reason)


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
    assert "is no message" in rows[1]["error"]


def test_a_repeat_number_that_is_none_is_an_error_of_its_row() -> None:
    rows = decoded(
        [{"prompt": "one", "r": 1}, {"prompt": "one", "r": None}, {"prompt": "one", "r": -1}], repeat_column="r"
    )
    assert [row["error"] is None for row in rows] == [True, False, False]
    assert "takes a whole number from 0 (got -1)" in rows[2]["error"]


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
def test_columns_that_do_not_fit_are_told_before_anything_runs() -> None:
    config = RSDConfig.parse(SCRIPTED)
    with pytest.raises(ConfigurationError, match=r"no column 'prompt'; it has question, answer"):
        decode(ray.data.from_items([{"question": "one", "answer": "1"}]), config, prefix="rsd_")
    with pytest.raises(ConfigurationError, match=r"results are written to: answer; rename them, or .*prefix='rsd_'"):
        decode(ray.data.from_items([{"prompt": "one", "answer": "1"}]), config)
    with pytest.raises(ConfigurationError, match="rows takes a whole number from 1"):
        decode(ray.data.from_items([{"prompt": "one"}]), config, rows=0)
    with pytest.raises(ConfigurationError, match="results are written to: text"):
        DecodeRows(SCRIPTED)(pa.table({"prompt": ["one"], "text": ["two"]}))
