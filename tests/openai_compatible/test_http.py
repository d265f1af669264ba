"""HTTP as spoken by servers and proxies: byte for byte, complete or broken."""

from __future__ import annotations

import asyncio
import gc
import gzip
import itertools
import json
import math
import subprocess
import sys
import time
import zlib
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any, TypeVar

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsd_core import ConfigurationError
from rsd_core.blocking import background_loop, wait_for
from rsd_integrations.openai_compatible import Endpoint, EndpointError, Refused, http_client, http_connection
from rsd_integrations.openai_compatible.http_client import HttpClient
from rsd_integrations.openai_compatible.json_data import decoded, encoded
from tests.openai_compatible.server import wait_until
from tests.openai_compatible.wire import OK, TLS, Peer, Wire, whole, wired

T = TypeVar("T")
BODY = {"model": "m", "prompt": "Count."}
UP = b'{"up": true}'


def using(server: Wire, work: Callable[[Endpoint], Awaitable[T]], url: str | None = None, **options: Any) -> T:
    """Work with an endpoint, of which nothing is left afterwards."""
    endpoint = Endpoint("m", url or server.url, **{"retries": 0, "patience": 0.0, "timeout": 5.0, **options})

    async def run() -> T:
        try:
            return await work(endpoint)
        finally:
            await endpoint.aclose()

    try:
        return wait_for(run())
    finally:
        assert wait_until(lambda: server.open == 0), "connections are left"


def ask(server: Wire, times: int = 1, **options: Any) -> list[Any]:
    """Some requests one after the other: answers, and what was raised in place of them."""

    async def work(endpoint: Endpoint) -> list[Any]:
        found: list[Any] = []
        for _ in range(times):
            try:
                found.append(await endpoint.post("completions", BODY))
            except (EndpointError, ConfigurationError) as error:
                found.append(error)
        return found

    return using(server, work, **options)


def forever(answer: bytes) -> Callable[[Peer], None]:
    """Answers every request in the same way."""

    def script(peer: Peer) -> None:
        while True:
            peer.request()
            peer.say(answer)

    return script


def chunked(body: bytes, size: int, *fields: bytes) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in parts)
    head = b"".join(field + b"\r\n" for field in (*fields, b"transfer-encoding: chunked"))
    return OK + head + b"\r\n" + chunks + b"0\r\nTrailer: x\r\n\r\n"


FORMS: dict[str, Callable[[bytes], tuple[bytes, bool]]] = {
    # How an answer is written, and whether the connection stays open.
    "whole": lambda body: (whole(body, b"content-type:application/json", b"X-Empty:"), True),
    "chunked": lambda body: (chunked(body, 7), True),
    "until the end": lambda body: (OK + b"Content-Type: application/json\r\n\r\n" + body, False),
    "HTTP/1.0": lambda body: (whole(body, status=b"HTTP/1.0 200 OK\r\n"), False),
    "last": lambda body: (whole(body, b"Connection: close"), False),
    "gzip": lambda body: (whole(gzip.compress(body, mtime=0), b"Content-Encoding: gzip"), True),
    "gzip in chunks": lambda body: (chunked(gzip.compress(body, mtime=0), 11, b"content-encoding: gzip"), True),
    "deflate": lambda body: (whole(zlib.compress(body), b"Content-Encoding: deflate"), True),
    "after two hints": lambda body: (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + whole(body), True
    ),
}  # fmt: skip
TEXT = st.text(st.sampled_from('a ä"\\\n\t\u2028😀{}'), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=4)


def test_what_is_sent_and_what_comes_is_as_another_client_has_it() -> None:
    told: list[tuple[list[bytes], bool]] = []

    def script(peer: Peer) -> None:
        while True:
            peer.request()
            parts, stays = told.pop()
            peer.say(*parts)
            if not stays:
                return

    loop = background_loop()
    with wired(script) as server, httpx.Client(trust_env=False, verify=False) as other:
        endpoint = Endpoint("m", server.url, retries=0, patience=0.0, timeout=5.0)

        @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(
            sent=OBJECTS,
            came=OBJECTS,
            form=st.sampled_from(sorted(FORMS)),
            cuts=st.sets(st.integers(1, 400), max_size=5),
        )
        def compare(sent: dict[str, Any], came: dict[str, Any], form: str, cuts: set[int]) -> None:
            data, stays = FORMS[form](json.dumps(came).encode())
            edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
            parts = [data[a:b] for a, b in itertools.pairwise(edges)]
            told.extend([(parts, stays), (parts, stays)])
            ours = asyncio.run_coroutine_threadsafe(endpoint.post("completions", sent), loop).result(5)
            theirs = other.post(f"{server.url}/completions", json=sent, headers={"Accept-Encoding": "identity"})
            assert ours == theirs.json() == came
            (our_head, our_body), (their_head, their_body) = server.requests[-2:]
            assert json.loads(our_body) == json.loads(their_body) == sent
            assert our_head.split("\r\n")[0] == their_head.split("\r\n")[0] == "POST /v1/completions HTTP/1.1"
            fields = [
                {line.split(": ")[0].lower(): line.split(": ")[1] for line in head.split("\r\n")[1:]}
                for head in (our_head, their_head)
            ]
            for name in ("host", "content-type", "accept", "accept-encoding"):
                assert fields[0][name] == fields[1][name]

        compare()
        wait_for(endpoint.aclose())


@pytest.mark.parametrize("form", FORMS)
def test_a_connection_is_kept_where_the_answer_lets_it(form: str) -> None:
    data, stays = FORMS[form](UP)

    def script(peer: Peer) -> None:
        while True:
            peer.request()
            for byte in data[:-1]:
                peer.say(bytes([byte]))
            peer.say(data[-1:])
            if not stays:
                return

    with wired(script) as server:
        assert ask(server, 3) == [{"up": True}] * 3
        assert server.connections == (1 if stays else 3)


def test_what_json_libraries_differ_in_is_sent_and_read_all_the_same() -> None:
    assert json.loads(encoded({"half": "\ud83d", "bias": {50256: -100}})) == {"half": "\ud83d", "bias": {"50256": -100}}
    assert encoded({"a": [1, 2.5, None], "ä": "ö"}) == '{"a":[1,2.5,null],"ä":"ö"}'.encode()
    read = decoded(b'{"half": "\\ud83d", "logprob": NaN, "least": -Infinity}')
    assert read["half"] == "\ud83d"
    assert math.isnan(read["logprob"])
    assert read["least"] == -math.inf
    for wrong in (b"{", b"", b"\xff", b"<html>"):
        with pytest.raises(ValueError):
            decoded(wrong)


@pytest.mark.parametrize("how", ["closed", "closed on the next request", "reset on the next request"])
def test_a_kept_connection_that_is_closed_is_not_a_fault(how: str) -> None:
    """Servers close what is idle, and a request may be on its way just then."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.say(whole(UP))
        if peer.number == 0:
            if how != "closed":
                peer.request()
            if how.startswith("reset"):
                peer.reset()
            return
        forever(whole(UP))(peer)

    async def work(endpoint: Endpoint) -> list[Any]:
        found = [await endpoint.post("completions", BODY)]
        if how == "closed":
            await asyncio.to_thread(wait_until, lambda: server.open == 0)
        found += [await endpoint.post("completions", BODY) for _ in range(2)]
        assert endpoint.breaker.last is None
        return found

    with wired(script) as server:
        assert using(server, work) == [{"up": True}] * 3
        assert server.connections == 2
        assert len(server.requests) == (3 if how == "closed" else 4)
        assert len(set(server.requests)) == 1


def test_it_is_sent_again_once_and_a_second_break_is_an_outage() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        if peer.number == 0:
            peer.say(whole(UP))
            peer.request()
        peer.reset()

    with wired(script) as server:
        first, error = ask(server, 2)
        assert first == {"up": True}
        assert isinstance(error, EndpointError)
        assert error.outage
        assert "is the server up" in str(error)
        assert len(server.requests) == 3
        assert server.connections == 2


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 2",
        OK,
        OK + b"Content-Length: 12\r\n\r\n{",
        chunked(UP, 5)[:-4],
        FORMS["gzip"](UP)[0][:-3],
        whole(gzip.compress(UP, mtime=0)[:-3], b"Content-Encoding: gzip"),
    ],
)
@pytest.mark.parametrize("kept", [False, True])
def test_an_answer_that_breaks_off_is_an_outage_and_not_asked_for_twice(said: bytes, kept: bool) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        if kept:
            peer.say(whole(UP))
            peer.request()
        peer.say(said or b"H")
        peer.reset() if said in (b"", OK) else peer.socket.close()

    with wired(script) as server:
        error = ask(server, 2 if kept else 1)[-1]
        assert isinstance(error, EndpointError)
        assert error.outage
        assert server.connections == 1


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (OK + b"Content-Length: x\r\n\r\n{}", "not HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "not HTTP"),
        (whole(UP, b"Content-Encoding: br"), "encoding is br"),
        (whole(UP, b"Content-Encoding: gzip"), "decompressed"),
        (whole(b" " * 5000 + UP), "more than 1000 bytes"),
        (whole(gzip.compress(b" " * 5000 + UP, mtime=0), b"Content-Encoding: gzip"), "more than 1000 bytes"),
        (OK + b"X: " + b"x" * 3000, "more than 2000 bytes"),
    ],
)  # fmt: skip
def test_an_invalid_answer_is_a_fault_and_not_an_outage(
    monkeypatch: pytest.MonkeyPatch, said: bytes, told: str
) -> None:
    monkeypatch.setattr(http_connection, "LARGEST_BODY", 1000)
    monkeypatch.setattr(http_connection, "LARGEST_HEAD", 2000)
    with wired(forever(said)) as server:
        (error,) = ask(server)
        assert isinstance(error, EndpointError)
        assert told in str(error)
        assert not error.outage


def test_an_answer_that_nobody_asked_for_is_nobodys() -> None:
    with wired(forever(whole(UP) + whole(b'{"up": false}'))) as server:
        assert ask(server, 3) == [{"up": True}] * 3
        assert server.connections == 3


def test_statuses_without_a_body_and_redirects_are_reported_and_not_followed() -> None:
    answers = iter(
        [b"HTTP/1.1 204 No Content\r\n\r\n", whole(b"", b"Location: /v2", status=b"HTTP/1.1 307 T\r\n"), whole(UP)]
    )

    def script(peer: Peer) -> None:
        for answer in answers:
            peer.request()
            peer.say(answer)

    with wired(script) as server:
        empty, moved, up = ask(server, 3)
        assert [type(empty), type(moved), up] == [Refused, Refused, {"up": True}]
        assert "HTTP 204" in str(empty)
        assert "HTTP 307" in str(moved)
        assert server.connections == 1


def test_the_time_to_wait_is_read_however_it_is_spelt() -> None:
    with wired(forever(whole(b"{}", b"retry-after: 7", status=b"HTTP/1.1 503 Away\r\n"))) as server:
        (error,) = ask(server)
        assert (error.status, error.retry_after, error.throttled) == (503, 7.0, True)


def test_an_answer_may_have_a_null_error() -> None:
    with wired(forever(whole(b'{"error": null, "up": true}'))) as server:
        assert ask(server) == [{"error": None, "up": True}]


def test_a_count_without_end_is_a_fault_of_the_server() -> None:
    async def work(endpoint: Endpoint) -> int:
        return await endpoint.post("completions", BODY, lambda answer: int(answer["tokens"]))

    with wired(forever(whole(b'{"tokens": Infinity}'))) as server, pytest.raises(EndpointError, match="unknown format"):
        using(server, work)


@pytest.mark.parametrize("said", [b"", OK + b"Content-Length: 12\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
@pytest.mark.parametrize("kept", [False, True])
def test_a_slow_answer_is_given_up_and_its_connection_closed(said: bytes, kept: bool) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        if kept:
            peer.say(whole(UP))
            peer.request()
        peer.say(said)
        peer.request()

    with wired(script) as server:
        started = time.monotonic()
        error = ask(server, 2 if kept else 1, timeout=0.3)[-1]
        assert 0.3 <= time.monotonic() - started < 2
        assert "no answer within 0.3 s" in str(error)
        assert not error.outage
        assert wait_until(lambda: server.left == 1)


def test_a_cancelled_request_closes_its_connection_and_no_other() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        if peer.number:
            peer.say(whole(UP))
        peer.request()

    async def work(endpoint: Endpoint) -> None:
        call = asyncio.ensure_future(endpoint.post("completions", BODY))
        await asyncio.to_thread(wait_until, lambda: len(server.requests) == 1)
        assert await endpoint.post("completions", BODY) == {"up": True}
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(wait_until, lambda: server.left == 1)
        assert server.open == 1

    with wired(script) as server:
        using(server, work)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("loop", [wait_for, asyncio.run])
def test_requests_that_end_while_they_connect_leave_no_connection(loop: Callable[[Any], Any], closed: bool) -> None:
    """Cancelled or closed, some just when the connection is made, in whatever turn of the loop that is."""

    async def run(turns: int) -> None:
        client = HttpClient(asyncio.get_running_loop(), server.url, {}, 5.0)
        calls = [asyncio.ensure_future(client.send("POST", "/v1/completions", b"{}")) for _ in range(20)]
        for _ in range(turns):
            await asyncio.sleep(0)
        if not closed:
            for call in calls:
                call.cancel()
                await asyncio.sleep(0)
        await asyncio.wait_for(client.aclose(), 2)
        await asyncio.gather(*calls, return_exceptions=True)

    with wired(lambda peer: peer.request() and peer.request()) as server:
        for turns in range(15):
            loop(run(turns))
        assert wait_until(lambda: server.open == 0)
    gc.collect()  # unclosed sockets warn now


def test_there_are_no_more_connections_than_requests_in_flight_and_idle_ones_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_client, "KEPT", 0.3)

    async def work(endpoint: Endpoint) -> None:
        found = await asyncio.gather(*(endpoint.post("completions", BODY) for _ in range(40)))
        assert found == [{"up": True}] * 40
        assert server.connections <= 4
        assert await asyncio.to_thread(wait_until, lambda: server.open == 0)
        assert server.left == server.connections
        assert await endpoint.post("completions", BODY) == {"up": True}

    with wired(forever(whole(UP))) as server:
        using(server, work, concurrency=4)


def test_closing_fails_what_is_in_flight() -> None:
    async def work(endpoint: Endpoint) -> None:
        calls = [asyncio.ensure_future(endpoint.post("completions", BODY)) for _ in range(3)]
        await asyncio.to_thread(wait_until, lambda: len(server.requests) == 3)
        await endpoint.aclose()
        assert await asyncio.to_thread(wait_until, lambda: server.open == 0)
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in found] == [EndpointError] * 3
        assert endpoint.breaker.last is None

    with wired(lambda peer: peer.request() and peer.request()) as server:
        using(server, work)


def test_an_unreachable_server_is_down() -> None:
    with wired(forever(b"")) as gone:
        gone.close()
        (error,) = ask(gone)
    assert error.outage
    assert "is the server up" in str(error)
    assert f"127.0.0.1:{gone.port}" in str(error)


def test_servers_of_the_newer_internet() -> None:
    try:
        server = Wire(forever(whole(UP)), "::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert ask(server) == [{"up": True}]
    assert f"\r\nHost: [::1]:{server.port}\r\n" in server.requests[0][0]
    server.close()


def secured(peer: Peer) -> None:
    peer.secure()
    forever(whole(UP))(peer)


def test_only_a_trusted_server_is_spoken_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with wired(secured) as server:
        named, numbered = (f"https://{host}:{server.port}/v1" for host in ("localhost", "127.0.0.1"))
        (unknown,) = ask(server, url=named)
        assert "CERTIFICATE_VERIFY_FAILED" in str(unknown)
        assert not unknown.outage
        monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "authority.pem"))
        assert ask(server, 2, url=named) == [{"up": True}] * 2
        (another,) = ask(server, url=numbered)  # which the certificate does not name
        assert "CERTIFICATE_VERIFY_FAILED" in str(another)
        assert len(server.requests) == 2


@pytest.mark.parametrize("run", [wait_for, asyncio.run])
def test_a_proxy_is_asked_for_the_whole_url_or_for_a_tunnel(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[Any], Any]
) -> None:
    """On the background loop, which may be uvloop's, and on asyncio's own."""
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "authority.pem"))

    def script(peer: Peer) -> None:
        head, _ = peer.request()
        if "Basic dXNlcjpwQHNz" not in head:
            peer.say(whole(b"who are you?", status=b"HTTP/1.1 407 Name\r\n"))
        elif head.startswith("CONNECT"):
            peer.say(b"HTTP/1.1 200 Connection established\r\n\r\n")
            secured(peer)
        else:
            peer.say(whole(UP))

    async def through(server: Wire, url: str, credentials: str) -> tuple[int, bytes]:
        client = HttpClient(asyncio.get_running_loop(), url, {}, 5.0, f"http://{credentials}127.0.0.1:{server.port}")
        try:
            response = await client.send("GET", "/v1/models", None)
            response.close()
            return response.status, await response.read()
        finally:
            await client.aclose()

    with wired(script) as server:
        assert run(through(server, "http://far.example/v1", "user:p%40ss@")) == (200, UP)
        assert server.requests[-1][0].startswith("GET http://far.example/v1/models HTTP/1.1\r\nHost: far.example\r\n")
        assert run(through(server, "https://localhost/v1", "user:p%40ss@")) == (200, UP)
        assert [head.split("\r\n")[0] for head, _ in server.requests[-2:]] == [
            "CONNECT localhost:443 HTTP/1.1",
            "GET /v1/models HTTP/1.1",
        ]
        assert "Basic" not in server.requests[-1][0]
        with pytest.raises(ValueError, match=r"127\.0\.0\.1:\d+ answered HTTP 407") as caught:
            run(through(server, "https://localhost/v1", "user:wrong@"))
        assert "wrong" not in str(caught.value)
        assert wait_until(lambda: server.open == 0)
    with pytest.raises(ConfigurationError, match="'socks5'"):
        HttpClient(background_loop(), "https://far.example", {}, 5.0, "socks5://user:pass@127.0.0.1:1")


class Words:
    """Takes the words of a stream."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.complete = False

    def take(self, event: Any) -> bool:
        self.words.append(event["word"])
        self.complete = event["word"] == "end"
        return len(self.words) == 4

    def end(self) -> None:
        """The server says that this was all."""


def events(*words: str) -> bytes:
    return b"".join(b": ping\r\n\r\ndata: " + json.dumps({"word": word}).encode() + b"\n\n" for word in words)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_stream_is_read_however_it_is_cut_and_its_connection_kept(size: int) -> None:
    with wired(forever(chunked(events("one", "two", "end") + b"data: [DONE]\n\n", size))) as server:

        async def work(endpoint: Endpoint) -> list[list[str]]:
            return [(await endpoint.stream("completions", BODY, Words)).words for _ in range(2)]

        assert using(server, work) == [["one", "two", "end"]] * 2
        assert size < 1000 or server.connections == 1  # what may come after its end is not waited for


def test_a_stream_that_is_left_early_is_closed_and_one_that_breaks_is_an_outage() -> None:
    said = {"enough": events("1", "2", "3", "4", "5"), "broken": events("1", "2")}

    def script(peer: Peer) -> None:
        _, body = peer.request()
        peer.say(OK + b"Content-Length: 1000\r\n\r\n" + said[json.loads(body)["prompt"]])
        if json.loads(body)["prompt"] == "enough":
            peer.request()

    async def work(endpoint: Endpoint) -> None:
        reader = await endpoint.stream("completions", {"prompt": "enough"}, Words)
        assert reader.words == ["1", "2", "3", "4"]
        assert await asyncio.to_thread(wait_until, lambda: server.left == 1)
        read: list[Words] = []
        with pytest.raises(EndpointError) as caught:
            await endpoint.stream(
                "completions", {"prompt": "broken"}, Words, charge=lambda reader, _: read.append(reader)
            )
        assert caught.value.outage
        assert read[0].words == ["1", "2"]

    with wired(script) as server:
        using(server, work)


@pytest.mark.parametrize("lasts", [True, False])
def test_the_time_of_a_stream_that_lasts_is_one_of_silence(lasts: bool) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.say(OK + b"Content-Type: text/event-stream\r\n\r\n")
        for word in ("1", "2", "3"):
            time.sleep(0.25)
            peer.say(events(word))
        peer.request()

    async def work(endpoint: Endpoint) -> None:
        read: list[Words] = []
        started = time.monotonic()
        with pytest.raises(EndpointError, match=r"no answer within 0\.5 s"):
            await endpoint.stream(
                "completions", BODY, Words, (lambda: False) if lasts else None, lambda reader, _: read.append(reader)
            )
        assert (time.monotonic() - started > 1.2) is lasts
        assert (read[0].words == ["1", "2", "3"]) is lasts

    with wired(script) as server:
        using(server, work, timeout=0.5)


def test_a_line_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "LONGEST_LINE", 1000)
    with wired(forever(OK + b"\r\ndata: " + b"x" * 3000)) as server:

        async def work(endpoint: Endpoint) -> None:
            with pytest.raises(EndpointError, match="more than 1000 bytes"):
                await endpoint.stream("completions", BODY, Words)

        using(server, work)


@pytest.mark.parametrize("installed", [True, False])
def test_the_background_loop_is_the_fast_one_where_it_is_installed(installed: bool) -> None:
    code = f"""
import sys
if not {installed}:
    sys.modules["uvloop"] = None
from rsd_core.blocking import background_loop, wait_for
from rsd_integrations.openai_compatible import Endpoint
endpoint = Endpoint("m", sys.argv[1])
print(wait_for(endpoint.post("completions", {{}})), type(background_loop()).__module__)
wait_for(endpoint.aclose())
"""
    with wired(forever(whole(UP))) as server:
        done = subprocess.run([sys.executable, "-c", code, server.url], capture_output=True, text=True, check=True)
    fast = installed and find_spec("uvloop") is not None
    assert done.stdout.startswith(f"{{'up': True}} {'uvloop' if fast else 'asyncio.'}")
