"""The embedded family behind three vLLM servers."""

import asyncio

import pytest

from rsd_core import Path, Step, as_prompt, load
from tests.servers.equality import equal_to_inprocess
from tests.servers.launcher import Server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]


def test_greedy_rsd_through_servers_equals_rsd_in_process(family_servers: dict[str, Server]) -> None:
    found = equal_to_inprocess(family_servers, 40)
    assert found["differing"] == []
    assert found["degraded"] == 0
    assert found["target_steps"] > 5
    assert found["largest_reward_difference"] < 1e-4


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
