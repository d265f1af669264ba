"""Under load: a bounded queue, clients that go away, silence, and the end of the server."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import logging
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path as File
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from rsd_core import Cancellation, Path
from rsd_integrations.serve import ServeConfig, create_app
from rsd_integrations.serve.admission import Admission
from rsd_integrations.serve.errors import ApiError
from tests.serve.running import Running, events, running, scripted, wait_until


def endless() -> Any:
    """A decoder whose answers end by a limit alone, after a few seconds."""
    return scripted(lambda path, _: f"on, {path.depth} times\n\n", [0.9], [""], delay=0.02, max_steps=400)


def calls_of(decoder: Any) -> int:
    """How often a scripted drafter was called."""
    return len(decoder.drafter.calls)


def idle(server: Running) -> bool:
    """Whether nothing waits and nothing is decoded."""
    return server.serving.admission.in_flight == server.serving.admission.waiting == 0


def test_beyond_the_queue_a_client_is_told_to_come_back() -> None:
    with running(ServeConfig(concurrency=1, queue=1), {"rsd": scripted(delay=0.3)}) as server:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            admitted = [pool.submit(server.chat) for _ in range(2)]
            wait_until(lambda: server.serving.admission.waiting == 1)
            assert server.metric("rsd_queue_depth") == server.metric("rsd_in_flight") == 1
            refused = server.chat()
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "queue_full"
        assert [one.result().status_code for one in admitted] == [200, 200]
        assert server.chat().status_code == 200
        assert server.metric("rsd_http_requests_total", status="429") == 1


def test_more_answers_than_could_ever_wait_are_refused_for_good() -> None:
    with running(ServeConfig(concurrency=1, queue=1), {"rsd": scripted()}) as server:
        refused = server.chat(n=3)
        assert refused.status_code == 400
        assert server.chat(n=2).status_code == 200
        assert idle(server)


@given(places=st.integers(1, 3), queue=st.integers(0, 4), seed=st.integers(0, 10**6))
def test_places_go_to_the_oldest_and_none_is_ever_lost(places: int, queue: int, seed: int) -> None:
    """Whether clients come, leave early or fail: never more than the places, in order, and all are free at the end."""
    dice = random.Random(seed)
    admission = Admission(places, queue)
    begun: list[int] = []
    refused: list[tuple[int, int]] = []

    async def one(number: int, cancel: Cancellation) -> None:
        async with admission.place(cancel):
            begun.append(number)
            assert admission.in_flight <= places
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
            if dice.random() < 0.2:
                raise ValueError

    async def main() -> None:
        tasks: list[asyncio.Task[None]] = []
        for number in range(20):
            cancel = Cancellation()
            try:
                admission.enter(1)
            except ApiError as error:
                refused.append((error.status, admission.in_flight + admission.waiting))
            else:
                tasks.append(asyncio.ensure_future(one(number, cancel)))
            await asyncio.sleep(0)
            if dice.random() < 0.2:
                cancel.cancel()
            elif dice.random() < 0.1 and tasks:
                tasks[-1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    assert set(refused) <= {(429, places + queue)}
    in_order = sorted(begun)  # who is given a place may begin a moment after who finds another one free
    assert all(abs(in_order.index(number) - i) < places for i, number in enumerate(begun))
    assert (admission.in_flight, admission.waiting) == (0, 0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_work_and_is_charged(stream: bool) -> None:
    decoder = endless()
    with running(decoders={"rsd": decoder}) as server:
        body = {"model": "rsd", "messages": [{"role": "user", "content": "Go on"}], "stream": stream}
        with httpx.Client(base_url=server.url, trust_env=False) as leaving:
            if stream:
                with leaving.stream("POST", "/v1/chat/completions", json=body) as response:
                    next(response.iter_lines())
            else:
                with pytest.raises(httpx.ReadTimeout):
                    leaving.post("/v1/chat/completions", json=body, timeout=0.3)
        wait_until(lambda: idle(server), 3)
        wait_until(lambda: server.metric("rsd_requests_total", finish_reason="cancelled") == 1)
        calls = server.metric("rsd_calls_total", role="drafter")
        assert calls == calls_of(decoder)  # those that were cut as well
        assert 0 < calls < 100
        assert server.metric("rsd_tokens_total", role="drafter", kind="generated") > 0
        assert server.metric("rsd_http_requests_total", status="499") == 1


def test_a_client_that_goes_away_leaves_the_queue() -> None:
    with running(ServeConfig(concurrency=1, queue=3), {"rsd": endless(), "short": scripted()}) as server:
        body = {"model": "rsd", "messages": [{"role": "user", "content": "Go on"}], "stream": True}
        with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(server.url + "/v1/chat/completions", json=body, timeout=0.2, trust_env=False)
            wait_until(lambda: server.serving.admission.waiting == 0, 3)
            assert server.serving.admission.in_flight == 1
            next(lines)
        wait_until(lambda: idle(server), 3)
        assert server.chat(model="short").status_code == 200


def test_one_answer_that_fails_ends_the_others_of_its_request() -> None:
    def script(path: Path, dice: random.Random) -> str | Exception:
        return RuntimeError("gone") if path.depth == 3 and dice.random() < 0.5 else f"{path.depth}\n\n"

    broken = scripted(script, [0.9], script, delay=0.01, max_steps=2000, target_retries=0, on_verifier_error="raise")
    with running(ServeConfig(concurrency=4), {"rsd": broken}) as server:
        began = time.monotonic()
        assert server.chat(n=8, seed=1).status_code == 502
        assert time.monotonic() - began < 10
        wait_until(lambda: idle(server))
        assert server.metric("rsd_calls_total", role="drafter") == calls_of(broken)


def test_a_silent_stream_is_kept_alive_and_its_comments_are_not_events() -> None:
    config = ServeConfig(keep_alive=0.1)
    with running(config, {"rsd": scripted(delay=0.5)}) as server:
        response = server.chat(stream=True)
        assert response.text.count(": keep-alive\n\n") >= 3
        texts = [event["choices"][0]["delta"].get("content", "") for event in events(response)[:-1]]
        assert "".join(texts) == "one\n\ntwo\n\nthree"


def test_steps_are_sent_as_they_are_accepted() -> None:
    with running(decoders={"rsd": scripted(delay=0.25)}) as server:
        body = {"model": "rsd", "messages": [{"role": "user", "content": "Go on"}], "stream": True}
        with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
            arrivals = [time.monotonic() for line in response.iter_lines() if '"content"' in line]
    assert len(arrivals) == 3
    assert all(later - sooner > 0.05 for sooner, later in itertools.pairwise(arrivals))


def test_drained_clients_get_what_is_written_and_new_ones_are_refused() -> None:
    config = ServeConfig(drain=0.3)
    with running(config, {"rsd": endless()}) as server, concurrent.futures.ThreadPoolExecutor() as pool:
        in_flight = [pool.submit(server.chat, stream=stream) for stream in (True, False)]
        wait_until(lambda: server.serving.admission.in_flight == 2)
        server.loop.call_soon_threadsafe(server.serving.drain)
        wait_until(lambda: server.serving.admission.draining)
        refused = server.chat()
        health = server.client.get("/health")
        cut = [one.result() for one in in_flight]
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert (health.status_code, health.json()) == (503, {"status": "draining"})
    choice = cut[1].json()["choices"][0]
    assert (choice["finish_reason"], choice["rsd"]["finish_reason"]) == ("length", "cancelled")
    assert choice["message"]["content"].startswith("on, 0 times\n\non, 1 times")
    told = events(cut[0])
    assert told[-1] == "[DONE]"
    assert told[-2]["choices"][0]["rsd"]["finish_reason"] == "cancelled"


def test_requests_have_ids_in_answers_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), running(decoders={"rsd": scripted()}) as server:
        own = server.chat().headers["x-request-id"]
        body = {"model": "rsd", "messages": [{"role": "user", "content": "my secret plan"}]}
        given = server.client.post("/v1/chat/completions", json=body, headers={"x-request-id": "trace-17"})
        forged = server.client.get("/health", headers={"x-request-id": "a b\tc"})
    assert own.startswith("req_")
    assert given.headers["x-request-id"] == "trace-17"
    assert forged.headers["x-request-id"].startswith("req_")
    lines = [record.getMessage() for record in caplog.records if record.name == "rsd_integrations.serve.access"]
    assert any("POST /v1/chat/completions 200" in line and "finish=stop" in line for line in lines)
    assert "my secret plan" not in caplog.text


def test_the_app_can_be_mounted_in_another_one() -> None:
    def wrap(app: Any) -> FastAPI:
        outer = FastAPI()

        @outer.get("/")
        async def root() -> str:
            return "mine"

        outer.mount("/models/rsd", app)
        return outer

    with running(decoders={"rsd": scripted()}, keys=("key",), wrap=wrap) as server:
        body = {"model": "rsd", "messages": [{"role": "user", "content": "Go on"}]}
        assert server.client.get("/").json() == "mine"
        answer = server.client.post("/models/rsd/v1/chat/completions", json=body)
        assert answer.json()["choices"][0]["message"]["content"] == "one\n\ntwo\n\nthree"
        assert server.client.get("/models/rsd/health", headers={"authorization": ""}).status_code == 200
        assert server.client.get("/models/rsd/v1/models", headers={"authorization": ""}).status_code == 401


def test_a_mounted_app_becomes_well_by_being_asked_for_its_health() -> None:
    def wrap(app: Any) -> FastAPI:
        outer = FastAPI()
        outer.mount("/rsd", app)
        return outer

    with running(decoders={"rsd": scripted()}, wrap=wrap) as server:
        server.client.get("/rsd/health")
        wait_until(lambda: server.client.get("/rsd/health").json() == {"status": "ok"})


def test_a_wrong_route_gets_an_error_with_the_correct_ones() -> None:
    with running(decoders={"rsd": scripted()}) as server:
        for route in ("/chat/completions", "/v2/chat/completions", "/v1/embeddings"):
            response = server.client.post(route, json={})
            assert response.status_code == 404
            assert "the API is under /v1" in response.json()["error"]["message"]


def test_the_metrics_are_the_sums_of_the_ledgers() -> None:
    drafts = lambda path, dice: dice.choice(["a b\n\n", "c\n\n"]) if path.depth < 4 else "end"  # noqa: E731
    decoder = scripted(drafts, lambda _, step: 0.1 if "c" in step.text else 0.9, drafts, temperature=0.5)
    with running(decoders={"rsd": decoder}) as server:
        bills = [server.chat(seed=seed).json()["usage"]["rsd"] for seed in range(10)]
        for role in ("drafter", "verifier", "target"):
            for kind in ("computed", "reused", "generated", "scored", "discarded", "estimated"):
                spent = server.metric("rsd_tokens_total", role=role, kind=kind)
                assert spent == sum(bill[role][kind] for bill in bills)
            assert server.metric("rsd_calls_total", role=role) == sum(bill[role]["calls"] for bill in bills)
        steps = server.metric("rsd_steps_total")
        assert steps == server.metric("rsd_steps_total", author="draft") + server.metric(
            "rsd_steps_total", author="target"
        )
        assert server.metric("rsd_drafts_total", accepted="true") == server.metric("rsd_steps_total", author="draft")
        assert server.metric("rsd_acceptance_rate_count") == 10


SERVE = [sys.executable, "-m", "rsd_integrations.cli", "serve", "--port", "0"]


@contextmanager
def started(folder: File, *options: str, config: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`rsd serve` as a process, and its URL."""
    file = folder / "serve.yaml"
    file.write_text(config)
    command = [*SERVE, "--config", str(file), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if line.startswith("serving"))
            yield process, line.split(" at ")[1].strip().removesuffix("/v1")
        finally:
            process.kill()


SLOW = """
models:
  slow: {drafter: "scripted,delay=0.1:draft", verifier: "scripted:verifier", target: "scripted,delay=0.1:target"}
"""


def test_on_sigterm_what_is_in_flight_is_finished_and_the_process_ends_well(tmp_path: File) -> None:
    body = {"model": "slow", "messages": [{"role": "user", "content": "Seats?"}]}
    with started(tmp_path, config=SLOW) as (process, url), concurrent.futures.ThreadPoolExecutor() as pool:
        asked = [pool.submit(httpx.post, url + "/v1/chat/completions", json=body, trust_env=False) for _ in range(4)]
        wait_until(lambda: "rsd_in_flight 4.0" in httpx.get(url + "/metrics", trust_env=False).text)
        process.send_signal(signal.SIGTERM)
        answers = [one.result() for one in asked]
        assert process.wait(10) == 0
        assert process.stderr is not None
        log = process.stderr.read()
    assert {answer.json()["choices"][0]["finish_reason"] for answer in answers} == {"stop"}
    assert log.count("POST /v1/chat/completions 200") == 4
    assert "Traceback" not in log


def test_options_alone_make_the_model_that_is_called_rsd(tmp_path: File) -> None:
    words = ["--draft", "scripted:draft", "--verifier", "scripted:verifier", "--target", "scripted:target"]
    with started(tmp_path, *words, "--policy", "always_target") as (_, url):
        body = {"model": "rsd", "prompt": "Seats?"}
        answer = httpx.post(url + "/v1/completions", json=body, trust_env=False).json()
    assert answer["choices"][0]["text"].endswith("\\boxed{10}.")
    assert answer["choices"][0]["rsd"]["target_share"] == 1


def test_a_port_in_use_and_a_file_without_keys_are_reported_in_a_line(tmp_path: File) -> None:
    empty = tmp_path / "keys"
    empty.write_text("# none yet\n\n")
    alone = tmp_path / "alone.yaml"
    alone.write_text("queue: 3\npolicy: sigmoid\n")
    with started(tmp_path, config=SLOW) as (_, url):
        for options, why in (
            (["--port", url.rpartition(":")[2]], "choose another --port"),
            (["--host", "198.51.100.1"], "choose another --host"),
            (["--config", str(alone)], "queue needs models, which is missing"),
            (["--api-key-file", str(empty)], "has no keys"),
            (["--api-key-file", str(tmp_path / "nothing")], "cannot be read"),
            (["--config", str(tmp_path / "nothing.yaml")], "cannot be read"),
            (["--config", str(tmp_path / "serve.yaml"), "--policy", "sigmoid"], "--policy is for one model"),
        ):
            ended = subprocess.run([*SERVE, *options], capture_output=True, text=True, timeout=60, check=False)
            assert ended.returncode == 2
            assert why in ended.stderr
            assert "Traceback" not in ended.stderr


def test_models_are_loaded_when_the_app_starts_and_health_says_so() -> None:
    app = create_app(ServeConfig.embedded())
    assert not app.state.serving.models.ready
    with running() as server:
        assert server.client.get("/health").json() == {"status": "ok"}
        assert server.client.head("/health").status_code == 200
        names = [one["id"] for one in server.client.get("/v1/models").json()["data"]]
        assert names == ["rsd", "draft", "target"]
        assert server.client.get("/v1/models/draft").json()["max_model_len"] == 512
        assert server.client.get("/v1/models/nothing").status_code == 404
