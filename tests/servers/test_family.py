"""The embedded family behind three vLLM servers."""

import asyncio
import json
from collections.abc import Sequence

import pytest
from typer.testing import CliRunner

from rsd_core import Path, Scores, Step, as_prompt, load
from rsd_integrations.cli.app import app
from rsd_integrations.openai_compatible.reward_models import PoolingRunVerifier
from tests.servers.equality import equal_to_inprocess
from tests.servers.launcher import Server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]


@pytest.mark.parametrize(("lookahead", "guesses"), [(0, False), (4, False), (4, True)])
def test_greedy_rsd_through_servers_equals_rsd_in_process(
    family_servers: dict[str, Server], lookahead: int, guesses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    score, score_run = PoolingRunVerifier.score, PoolingRunVerifier.score_run

    async def counted(model: PoolingRunVerifier, path: Path, steps: Sequence[Step]) -> list[Scores]:
        runs.append(len(steps))
        return await score_run(model, path, steps)

    async def late(model: PoolingRunVerifier, path: Path, steps: Sequence[Step]) -> Scores:
        """Later than the next drafts, on any machine."""
        await asyncio.sleep(0.2)
        return await score(model, path, steps)

    monkeypatch.setattr(PoolingRunVerifier, "score_run", counted)
    monkeypatch.setattr(PoolingRunVerifier, "score", late)
    found = equal_to_inprocess(family_servers, 40, lookahead=lookahead, guesses=guesses)
    assert found["differing"] == []
    assert found["degraded"] == 0
    assert found["target_steps"] > 5
    assert found["largest_reward_difference"] < 1e-4
    assert bool(runs) is bool(lookahead)


def test_a_judge_behind_a_server_reads_the_same_word(family_servers: dict[str, Server]) -> None:
    path = Path(as_prompt("Mia has 45 apples. Then she buys 12 more. How many apples does Mia have now?"))
    steps = [Step(f"She buys 12 more: 45+12={sum_}.\n\n", "delimiter") for sum_ in (57, 58)]
    local, remote = (load(f"judge,min_mass=0:{spec}") for spec in ("embedded:target", family_servers["target"].spec))
    ours, theirs = (asyncio.run(judge.score(path, steps)).rewards for judge in (local, remote))
    assert None not in ours
    assert theirs == pytest.approx(ours, abs=1e-4)


def test_the_doctor_finds_the_family_well(family_servers: dict[str, Server]) -> None:
    specs = [server.spec for server in family_servers.values()]
    done = CliRunner().invoke(app, ["doctor", "--json", *specs])
    found = json.loads(done.output)
    assert all(one["ok"] for spec in specs for one in found[spec]), found
    assert done.exit_code == 0


def test_a_killed_server_comes_back(family_servers: dict[str, Server]) -> None:
    server = family_servers["prm"]
    model = load(server.spec, retries=0)
    path, step = Path(as_prompt("Mia has 45 apples.")), Step("She buys 12 more: 45+12=57.\n\n", "delimiter")
    before = asyncio.run(model.score(path, [step])).rewards
    server.kill()
    assert not server.answers()
    server.start()
    server.wait()
    assert asyncio.run(model.score(path, [step])).rewards == before
