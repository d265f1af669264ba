"""Batches over a cluster: the file of results is the same one, whoever writes it and whatever ends them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster
from typer.testing import CliRunner

from rsd_core import ConfigurationError, Result, RSDConfig, RSDError, RunError
from rsd_core.blocking import wait_for
from rsd_integrations.batch import Progress, as_problems, read_results, read_rows, run_journaled
from rsd_integrations.cli.app import app
from rsd_integrations.ray import Actors, DecoderPool, run_journaled_on_ray
from rsd_integrations.ray import pool as pool_module

SCRIPTED = RSDConfig(drafter="scripted:draft", verifier="scripted:verifier", target="scripted:target")
SLOW = SCRIPTED.model_copy(update={"drafter": "scripted,delay=0.1:draft"})
SAMPLED = RSDConfig.parse({"settings": {"temperature": 0.8, "seed": 5}})


def told(result: Result) -> Any:
    """What of a result depends on neither clocks nor caches; rewards are rounded otherwise in other batches."""
    steps = [(step.text, step.author, step.accepted, step.discarded_draft, step.size) for step in result.steps]
    spent = [
        (account.calls, account.generated, account.discarded)
        for account in (result.ledger.drafter, result.ledger.target)
    ]
    return steps, spent, result.finish_reason, result.degradations


@pytest.mark.usefixtures("cluster")
def test_a_file_begun_in_one_process_goes_on_over_a_cluster_and_back(tmp_path: Path, questions: list[str]) -> None:
    problems, out = as_problems([*questions[:12], *questions[:4]]), tmp_path / "out.jsonl"
    run_journaled(SAMPLED, problems[:4], out)
    first = run_journaled_on_ray(SAMPLED, problems[:14], out, actors=Actors(count=1))
    assert (first.found, first.done) == (4, 10)
    assert run_journaled(SAMPLED, problems, out).found == 14
    assert len(read_rows(out)) == 17
    alone = tmp_path / "alone.jsonl"
    run_journaled(SAMPLED, problems, alone)
    expected = read_results(alone)
    assert {name: told(result) for name, result in read_results(out).items()} == {
        name: told(result) for name, result in expected.items()
    }


def test_a_node_that_dies_costs_no_result_and_doubles_none(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    third = cluster.add_node(num_cpus=1)
    out, seen = tmp_path / "out.jsonl", 0

    def note(progress: Progress) -> None:
        nonlocal seen
        if seen < 60 <= progress.done:
            cluster.remove_node(third, allow_graceful=False)
        seen = progress.done

    problems = as_problems([f"question {n}" for n in range(200)])
    counts = run_journaled_on_ray(SLOW, problems, out, actors=Actors(count=3, concurrency=8), progress=note)
    assert caplog.text.count("an actor died; its 8 requests are repeated") == 1
    assert (counts.done, counts.failed) == (200, 0)
    assert len(read_rows(out)) == 201
    assert len(read_results(out)) == 200


@pytest.mark.usefixtures("cluster")
def test_a_process_that_dies_is_replaced_and_one_that_dies_again_and_again_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As actors do that run out of memory; here they are killed."""
    monkeypatch.setattr(pool_module, "DEATHS", 2)

    async def asked() -> Result:
        async with DecoderPool(SLOW.model_copy(update={"drafter": "scripted,delay=2:draft"}), Actors(count=1)) as pool:
            (seat,) = pool._seats
            assert (await pool.arun("one")).answer == "10"
            request = asyncio.create_task(pool.arun("two"))
            for _ in range(2):
                while seat.actor is None or not seat.load:  # noqa: ASYNC110 - until it is asked
                    await asyncio.sleep(0.01)
                actor = seat.actor
                os.kill(await actor.__ray_call__.remote(lambda _: os.getpid()), signal.SIGKILL)
                while seat.actor is actor:  # noqa: ASYNC110 - until it is missed
                    await asyncio.sleep(0.01)
            return await request

    with pytest.raises(RunError, match="2 actors died while working on it"):
        wait_for(asked())


@pytest.mark.usefixtures("cluster")
def test_what_no_actor_can_build_is_reported_before_a_row_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out.jsonl"
    config = SCRIPTED.model_copy(update={"drafter": "openai,key_env=NO_SUCH_KEY:m@http://127.0.0.1:9/v1"})
    with pytest.raises(ConfigurationError, match="environment variable NO_SUCH_KEY is empty"):
        run_journaled_on_ray(config, as_problems(["one"]), out, actors=Actors(count=2))
    assert not out.exists()
    assert "an actor is given up" in caplog.text


@pytest.mark.usefixtures("cluster")
def test_what_failed_on_an_actor_is_reported_as_it_is_here(tmp_path: Path) -> None:
    config = SCRIPTED.model_copy(update={"target": "openai,patience=0,retries=0:m@http://127.0.0.1:9/v1"})
    out = tmp_path / "out.jsonl"
    counts = run_journaled_on_ray(config, as_problems(["one"], ["a"]), out, actors=Actors(count=1))
    assert (counts.done, counts.failed) == (0, 1)
    (row,) = read_rows(out)[1:]
    with pytest.raises(RunError) as raised:
        config.build().run("one")
    assert raised.value.partial is not None
    assert row["error"] == str(raised.value)
    assert read_results(out)["a"].text == raised.value.partial.text


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(f"question {n}") + "\n" for n in range(300)))
    return file


def command(cluster: Cluster, prompts: Path, out: Path) -> list[str]:
    words = ["-m", "rsd_integrations.cli", "batch", str(prompts), "--out", str(out), "--draft", SLOW.drafter]
    words += ["--verifier", "scripted:verifier", "--target", "scripted:target", "--concurrency", "4"]
    return [sys.executable, *words, "--ray", cluster.address, "--actors", "2"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_resumes(cluster: Cluster, prompts: Path, tmp_path: Path, how: signal.Signals) -> None:
    out = tmp_path / "out.jsonl"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command(cluster, prompts, out), env=env, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not out.exists() or out.read_bytes().count(b"\n") < 30:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.01)
        process.send_signal(how)
        _, said = process.communicate(timeout=30)
    finished = len(read_rows(out)) - 1
    assert 29 <= finished < 300
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert "the same command continues from there" in said
    counts = run_journaled(SLOW, as_problems([f"question {n}" for n in range(finished + 20)]), out)
    assert counts.failed == 0
    assert counts.found >= finished - 8
    assert counts.found + counts.done == finished + 20


def test_options_of_ray_are_checked_before_anything_starts(prompts: Path, tmp_path: Path) -> None:
    words = ["batch", str(prompts), "--out", str(tmp_path / "out.jsonl")]
    for further, message in (
        (["--actors", "4"], "'--actors 4' needs --ray"),
        (["127.0.0.1:6379"], "'127.0.0.1:6379' needs --ray"),
        (["--ray", "--actors", "0"], "count: Input should be greater than or equal to 1"),
    ):
        refused = CliRunner().invoke(app, [*words, *further])
        assert message in str(refused.exception), refused.output


def test_a_cluster_that_is_not_there_is_reported_at_once(prompts: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [
        "-m",
        "rsd_integrations.cli",
        "batch",
        str(prompts),
        "--out",
        str(tmp_path / "out"),
        "--ray",
        "127.0.0.1:9",
    ]
    done = subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "there is no Ray cluster at 127.0.0.1:9" in done.stderr


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, prompts: Path, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.startswith("rsd_integrations.ray")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    refused = CliRunner().invoke(app, ["batch", str(prompts), "--out", str(tmp_path / "out.jsonl"), "--ray"])
    assert isinstance(refused.exception, RSDError)
    assert 'pip install "rsd-decoding[ray]"' in str(refused.exception)
