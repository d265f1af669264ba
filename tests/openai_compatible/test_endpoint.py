"""An endpoint under faults: retries if they help, clear errors otherwise, and a secret key."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from rsd_core import ConfigurationError, Delimiter, RunError, SpecError, load
from rsd_core.blocking import wait_for
from rsd_integrations.openai_compatible import Endpoint, EndpointError, Refused, open_endpoint
from rsd_integrations.openai_compatible.answers import StepReader
from rsd_integrations.openai_compatible.base_url import proxy_of
from rsd_integrations.openai_compatible.profiles import PROFILES
from rsd_integrations.openai_compatible.retry import backoff, retry_after
from tests.openai_compatible.server import Habits, wait_until

GENERIC, NEVER = PROFILES["generic"], Delimiter(text="never")
BODY = {"model": "draft", "prompt": "Count.", "max_tokens": 4, "temperature": 0}
SECRET = "sk-a-key-that-nobody-may-see"


@pytest.fixture
def connected(vllm: Habits) -> Iterator[Callable[..., Endpoint]]:
    made: list[Endpoint] = []

    def make(**options: Any) -> Endpoint:
        made.append(Endpoint("draft", vllm.url, **{"timeout": 5.0, **options}))
        return made[-1]

    yield make
    for endpoint in made:
        wait_for(endpoint.aclose())


def ask(endpoint: Endpoint, **body: Any) -> Any:
    return wait_for(endpoint.post("completions", {**BODY, **body}))


@pytest.mark.parametrize("fault", ["http500", "429", "malformed", "cut"])
def test_passing_faults_are_retried(vllm: Habits, connected: Callable[..., Endpoint], fault: str) -> None:
    vllm.fault = lambda number: fault if number < 2 else None
    assert ask(connected())["choices"][0]["text"]
    assert len(vllm.requests) == 3
    assert vllm.requests[0] == vllm.requests[2]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("http500", "HTTP 500"),
        ("429", "slow down"),
        ("malformed", "something other than JSON"),
        ("cut", "payload"),
        ("hang", "0.2 s"),
    ],
)
def test_lasting_faults_name_the_server_and_the_cause(
    vllm: Habits, connected: Callable[..., Endpoint], fault: str, told: str
) -> None:
    vllm.fault = lambda number: fault
    with pytest.raises(EndpointError, match=told) as caught:
        ask(connected(retries=1, timeout=0.2, patience=0))
    assert isinstance(caught.value, RunError)
    assert "draft" in str(caught.value)
    assert vllm.url in str(caught.value)
    assert len(vllm.requests) == 2


def test_an_unexpected_shape_is_a_fault(vllm: Habits, connected: Callable[..., Endpoint]) -> None:
    def read(data: dict[str, Any]) -> Any:
        return data["data"][0]["embedding"]

    with pytest.raises(EndpointError, match="KeyError"):
        wait_for(connected(retries=0).post("completions", BODY, read))


def test_a_refusal_is_reported_at_once(vllm: Habits, connected: Callable[..., Endpoint]) -> None:
    with pytest.raises(Refused, match=r"does not exist.*base URL") as caught:
        ask(connected(), model="nope")
    assert isinstance(caught.value, ConfigurationError)
    assert len(vllm.requests) == 1


@pytest.mark.parametrize("fault", ["cut", "http500"])
def test_a_stream_without_an_end_is_a_fault_and_restarted(
    vllm: Habits, connected: Callable[..., Endpoint], fault: str
) -> None:
    vllm.fault = lambda number: fault if number == 0 else None
    endpoint = connected()
    reader = wait_for(endpoint.stream("completions", BODY | {"max_tokens": 6}, lambda: StepReader(GENERIC, NEVER)))
    assert len(vllm.requests) == 2
    vllm.fault = lambda number: None
    assert reader.answer.text == ask(endpoint, max_tokens=6)["choices"][0]["text"]  # nothing of the first is left in it
    vllm.fault = lambda number: "cut"
    with pytest.raises(EndpointError, match="finish reason"):
        wait_for(connected(retries=0, patience=0).stream("completions", BODY, lambda: StepReader(GENERIC, NEVER)))


def test_retry_after_is_honoured(vllm: Habits, connected: Callable[..., Endpoint]) -> None:
    assert retry_after({"Retry-After": "1.5"}) == 1.5
    assert retry_after({}) is None
    assert retry_after({"Retry-After": "soon"}) is None
    assert retry_after({"Retry-After": "nan"}) is None
    assert retry_after({"Retry-After": "Mon, 1 Jan 99999999999999999999 00:00:00 GMT"}) is None
    assert retry_after({"Retry-After": "-3"}) == retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < (retry_after({"Retry-After": date}) or 0) <= 30
    vllm.fault = lambda number: "429" if number < 1 else None
    started = time.monotonic()
    ask(connected())
    assert 0.05 <= time.monotonic() - started < 0.25  # its own back-off would begin at 0.25 s


def test_back_off_grows_and_is_jittered() -> None:
    assert len({backoff(1) for _ in range(20)}) > 10
    for attempt in range(1, 12):
        assert min(0.5 * 2 ** (attempt - 1), 8) / 2 <= backoff(attempt) <= min(0.5 * 2 ** (attempt - 1), 8)


def test_as_many_at_once_as_allowed(vllm: Habits, connected: Callable[..., Endpoint]) -> None:
    endpoint = connected(concurrency=3)

    async def crowd() -> None:
        await asyncio.gather(*(endpoint.post("completions", BODY) for _ in range(12)))

    wait_for(crowd())
    assert 1 < vllm.crowd <= 3


def test_a_cancelled_call_gives_its_place_back(vllm: Habits, connected: Callable[..., Endpoint]) -> None:
    vllm.fault = lambda number: "hang" if number == 0 else None
    endpoint = connected(concurrency=1)

    async def cancel() -> None:
        call = asyncio.ensure_future(endpoint.post("completions", BODY))
        await asyncio.to_thread(wait_until, lambda: bool(vllm.requests))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(cancel())
    assert ask(endpoint)["choices"]
    assert wait_until(lambda: vllm.dropped == 1)


def test_the_key_is_sent_and_never_told(
    vllm: Habits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A server that rejects the key and repeats it, one that fails, and one that is not there."""
    monkeypatch.setenv("OTHER_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.DEBUG)
    model = load(f"openai,key_env=OTHER_KEY,retries=0,patience=0:draft@{vllm.url}")
    vllm.key = SECRET
    assert ask(model.endpoint)["choices"]
    shown = [repr(model), repr(model.endpoint), repr(vars(model.endpoint)), str(vars(model))]
    errors: list[BaseException] = []
    for fault in (None, "http500", "malformed", "cut"):
        vllm.fault = lambda number, fault=fault: fault  # type: ignore[misc]
        vllm.key = SECRET if fault else "another"
        with pytest.raises((RunError, ConfigurationError)) as caught:
            ask(model.endpoint)
        errors.append(caught.value)
    wait_for(model.aclose())
    gone = Endpoint("draft", "http://127.0.0.1:9", key_env="OTHER_KEY", retries=0)
    with pytest.raises(EndpointError) as caught:
        ask(gone)
    errors.append(caught.value)
    wait_for(gone.aclose())
    while errors:
        error = errors.pop()
        shown += [str(error), repr(error), repr(vars(error))]
        errors += [further for further in (error.__cause__, error.__context__) if further is not None]
    shown += [caplog.text, *capfd.readouterr()]
    assert "HTTP 401" in "".join(shown)
    assert not [text for text in shown if SECRET in text]


def test_the_key_of_openai_stays_with_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(url: str | None, **options: Any) -> str | None:
        return Endpoint("m", url, **options)._headers().get("Authorization")

    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY is empty"):
        Endpoint("m")
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY is empty"):
        Endpoint("m", "https://eu.api.openai.com/v1")
    assert key("http://127.0.0.1:1") is None
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert key(None) == key("http://localhost:1/v1") == f"Bearer {SECRET}"
    assert key("https://eu.api.openai.com/v1") == f"Bearer {SECRET}"  # where data of the EU stays
    for url in ("https://elsewhere.example/v1", "https://eu.api.openai.com.evil.example/v1", "https://xapi.openai.com"):
        assert key(url) is None
    monkeypatch.setenv("THEIR_KEY", "theirs")
    assert key("https://elsewhere.example/v1", key_env="THEIR_KEY") == "Bearer theirs"
    with pytest.raises(ConfigurationError, match="NO_KEY is empty"):
        key("https://elsewhere.example/v1", key_env="NO_KEY")


def test_a_url_without_its_scheme_is_not_part_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("127.0.0.1:8000/v1", "localhost/v1", "gpu-1.example:8000", "10.0.0.1"):
        with pytest.raises(SpecError, match=f"it should look like small@http://{host}$"):
            load(f"openai:small@{host}")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    assert open_endpoint("claude@20251001").model == "claude@20251001"


def test_specs_name_a_model_at_a_url() -> None:
    endpoint = open_endpoint("qwen2.5:0.5b@http://127.0.0.1:11434")
    assert (endpoint.model, endpoint.base_url) == ("qwen2.5:0.5b", "http://127.0.0.1:11434/v1")
    assert endpoint.root == "http://127.0.0.1:11434"
    model = load("openai,timeout=3,concurrency=7,profile=vllm:Org/Name@http://127.0.0.1:1/v1/")
    assert (model.endpoint.model, model.endpoint.timeout, model.endpoint.concurrency) == ("Org/Name", 3, 7)
    for spec, wrong in (
        ("openai:m@ftp://x", SpecError),
        ("openai:m@http://", ConfigurationError),
        ("openai:m@http://user:pass@host/v1", ConfigurationError),
        ("openai,concurrency=0:m@http://127.0.0.1:1", ConfigurationError),
        ("openai,timeout=0:m@http://127.0.0.1:1", ConfigurationError),
        ("openai,mode=talk:m@http://127.0.0.1:1", ConfigurationError),
        ("openai,profile=other:m@http://127.0.0.1:1", ConfigurationError),
        ("openai,tokenizer=/no/folder:m@http://127.0.0.1:1", ConfigurationError),
    ):
        with pytest.raises(wrong) as caught:
            load(spec)
        assert "user:pass" not in str(caught.value)


def test_proxies_are_for_the_world_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "near.example")
    assert proxy_of("https://api.openai.com/v1") == "http://proxy.example:3128"
    assert proxy_of("https://near.example/v1") is None
    assert proxy_of("https://127.0.0.1:8000/v1") is None
