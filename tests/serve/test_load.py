"""`rsd serve` under load, in small: the same work as `tests.benchmarks.serve_load`, with bounds for a busy machine."""

from __future__ import annotations

import json
import signal
import socket

from rsd_integrations.serve import ServeConfig
from tests.benchmarks import serve_load
from tests.benchmarks.core import ROOT, Build
from tests.serve.running import running, scripted, wait_until


def test_a_crowd_gets_its_own_answers_with_little_memory_and_work() -> None:
    found = serve_load.crowd({"present": Build("present", ROOT)}, steps=30, clients=100, rounds=1)
    assert found["wrong"] == 0
    assert found["peak_mb"] < 150
    assert found["server_over"]["present"] < 5


def test_a_step_is_there_soon_after_its_acceptance() -> None:
    took = serve_load.first_bytes(clients=20, steps=8)
    assert took["steps"] == 20 * 8
    assert took["p50"] < 50


def test_nothing_is_left_of_clients_that_hang_up_and_all_of_their_work_is_charged() -> None:
    found = serve_load.leaving(clients=50)
    assert (found["left"], found["cancelled"], found["wrong"]) == (10, 10, 0)
    assert found["settled"]
    assert found["tasks_left"] == 0
    assert found["charged"] == found["made"]
    assert all(found["made"].values())


def test_a_full_queue_says_when_to_come_back_and_the_others_are_answered_in_order() -> None:
    found = serve_load.queue(places=4, waiting=4, steps=3)
    assert (found["offered"], found["taken"], found["refused"]) == (20, 8, 12)
    assert found["refused_with_retry_after"] == 12
    assert found["wrong"] == 0
    assert found["oldest_first"]


def test_sigterm_lets_everybody_finish() -> None:
    found = serve_load.ended(signal.SIGTERM, 0.5, clients=12, steps=4)
    assert found["waiting"] == 4
    assert found["exit_code"] == 0
    assert (found["whole"], found["wrong"]) == (12, 0)


def test_sigkill_loses_nothing_that_was_sent() -> None:
    found = serve_load.ended(signal.SIGKILL, 1.2, clients=12, steps=4)
    assert found["exit_code"] == -signal.SIGKILL
    assert found["wrong"] == 0
    assert 8 <= found["whole"] < 12
    assert found["received"] >= found["accepted"] - 4  # what was accepted in the last moment, of each of four answers


def test_a_client_that_does_not_read_holds_nobodys_place() -> None:
    long = [f"{i % 10}{'x' * 1_000_000}{i}\n\n" for i in range(20)]
    decoders = {"long": scripted(long, [0.9] * 20, max_steps=20), "rsd": scripted()}
    with running(ServeConfig(concurrency=1, queue=1), decoders) as server, socket.socket() as idle:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        idle.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        body = json.dumps({"model": "long", "messages": [{"role": "user", "content": "Go on"}], "stream": True})
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        idle.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        wait_until(lambda: server.metric("rsd_requests_total", model="long") == 1)
        assert server.chat().json()["choices"][0]["finish_reason"] == "stop"
        assert idle.recv(12) == b"HTTP/1.1 200"
