"""Logs and error messages: every retry and every degradation, no key, and no terminal control characters."""

import json
import logging
import os
from collections.abc import Callable
from typing import Any

import pytest

from rsd_core import ConfigurationError, Path, PromptError, RunError, StepRequest, as_prompt, load
from rsd_core.blocking import wait_for
from rsd_integrations.openai_compatible import Endpoint, EndpointError, OpenAIGenerator, Refused
from rsd_integrations.openai_compatible.errors import readable, reason_in
from tests.openai_compatible.server import Habits, Refusal

Connect = Callable[..., OpenAIGenerator]
BODY = {"model": "draft", "prompt": "Count.", "max_tokens": 4, "temperature": 0}
PACKAGE = "rsd_integrations.openai_compatible"
SECRET = 'sk-a-"key"-that-nobody-may-see'


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[int], list[str]]:
    """The messages of a level, so far."""
    caplog.set_level(logging.DEBUG, PACKAGE)
    return lambda level: [record.getMessage() for record in caplog.records if record.levelno == level]


def ask(endpoint: Endpoint) -> Any:
    try:
        return wait_for(endpoint.post("completions", BODY))
    finally:
        wait_for(endpoint.aclose())


SPENT = json.dumps({"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}})
FILTER = json.dumps({"error": {"message": "The prompt was filtered", "param": "prompt", "code": "content_filter"}})


def refusal(status: int, text: str, url: str = "http://127.0.0.1:1/v1") -> Exception:
    with pytest.raises((EndpointError, ConfigurationError)) as caught:
        Endpoint("gpt-5", url, key_env="NO_KEY")._replies.refuse(status, {}, text, BODY)
    return caught.value


@pytest.mark.parametrize("url", ["https://api.openai.com/v1", "https://mine.openai.azure.com/openai/v1"])
def test_a_spent_quota_is_not_waited_for_where_it_cannot_mean_throttling(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_KEY", "sk-none")
    spent, busy, other = refusal(429, SPENT, url), refusal(429, "slow down", url), refusal(429, SPENT)
    assert isinstance(spent, Refused)
    assert "You exceeded your current quota. Remedy: the account has no credit left" in str(spent)
    large = refusal(429, "Request too large for gpt-5 on tokens per min (TPM): Limit 30000, Requested 40190.", url)
    assert "Remedy: request fewer tokens" in str(large)
    assert isinstance(large, Refused)
    assert isinstance(busy, EndpointError)
    assert isinstance(other, EndpointError)
    assert busy.throttled
    assert other.throttled


def test_a_refusal_says_whether_money_or_the_prompt_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_KEY", "sk-none")
    assert "Remedy: the account has no credit left" in str(refusal(402, "Insufficient Balance"))
    assert "Remedy: the account has no credit left" in str(refusal(400, "Your credit balance is too low"))
    assert isinstance(refusal(400, FILTER), PromptError)
    flexible = refusal(498, "capacity exceeded")
    assert isinstance(flexible, EndpointError)
    assert flexible.throttled


def test_every_retry_is_logged_with_its_request_attempt_reason_and_pause(
    vllm: Habits, logged: Callable[[int], list[str]]
) -> None:
    vllm.fault = lambda number: ("http500", "429", None)[number]
    ask(Endpoint("draft", vllm.url))
    first, second = logged(logging.INFO)
    assert first.startswith("POST completions, attempt 1: <Endpoint 'draft' at http://127.0.0.1:")
    assert "HTTP 500: EngineCore encountered an issue.; trying again in 0." in first
    assert second.startswith("POST completions, attempt 2: ")
    assert second.endswith("HTTP 429: slow down; trying again in 0.05 s")
    assert not logged(logging.WARNING)


def test_a_failure_that_is_not_retried_is_raised_and_not_logged(
    vllm: Habits, logged: Callable[[int], list[str]]
) -> None:
    vllm.fault = lambda number: "http500"
    with pytest.raises(EndpointError):
        ask(Endpoint("draft", vllm.url, retries=0))
    assert not logged(logging.INFO)


def test_degradations_are_warned_of_once(
    vllm: Habits,
    connect: Connect,
    questions: list[str],
    monkeypatch: pytest.MonkeyPatch,
    logged: Callable[[int], list[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Habits, "ranked", lambda server, ids: None)
    vllm.streams_ids = False
    model, path = connect(vllm, guesses=True), Path(as_prompt(questions[0]))
    (step,) = wait_for(model.generate(path, StepRequest((0,)))).steps
    for _ in range(2):
        wait_for(model.generate(path, StepRequest((0,), guess=step)))
        wait_for(model.generate(path, StepRequest((0,), ahead=2)))
    guesses, streams = logged(logging.WARNING)
    assert guesses.endswith(
        "does not report the ranks of a prompt's tokens, so that rejected drafts are no longer read"
    )
    assert streams.endswith("streams text without token ids, so that each step is a separate request")
    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.DEBUG] == [True] * 2


def test_a_server_without_a_list_of_models_is_warned_of(
    vllm: Habits, connect: Connect, questions: list[str], logged: Callable[[int], list[str]]
) -> None:
    vllm.listing_fault = "http500"
    path = Path(as_prompt(questions[0]))
    wait_for(connect(vllm, retries=0).generate(path, StepRequest((0,))))
    (warning,) = logged(logging.WARNING)
    assert "lists no models; assuming profile=generic" in warning
    assert vllm.url in warning
    wait_for(connect(vllm, retries=0, profile="vllm").generate(path, StepRequest((0,))))
    assert len(logged(logging.WARNING)) == 1, "who was told what it is needs no list"


@pytest.mark.parametrize("fault", ["echo", "key in text", "key in json", "key cut in half", "key in a number"])
def test_no_message_and_no_log_shows_the_key(
    vllm: Habits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    def answer(server: Habits, body: dict[str, Any]) -> Any:
        if fault == "echo":
            raise Refusal(500, {"error": {"message": f"Incorrect API key provided: {SECRET}"}})
        if fault == "key cut in half":
            raise Refusal(500, {"error": {"message": "x" * 390 + SECRET}})
        if fault == "key in a number":
            return {"choices": [], "usage": {"prompt_tokens": SECRET}}
        return {"choices": SECRET if fault == "key in text" else {"a": [SECRET]}}

    monkeypatch.setenv("OTHER_KEY", SECRET + "\n")  # files end in a newline
    monkeypatch.setattr(Habits, "answer", answer)
    caplog.set_level(logging.DEBUG)
    vllm.key = SECRET
    model = load(f"openai,key_env=OTHER_KEY,retries=1,profile=vllm,mode=completions:draft@{vllm.url}")
    with pytest.raises(RunError) as caught:
        wait_for(model.generate(Path(as_prompt("?")), StepRequest((0,))))
    wait_for(model.aclose())
    assert "trying again" in caplog.text
    shown = caplog.text + str(caught.value) + repr(vars(caught.value))
    assert "sk-a-" not in shown
    assert not any(record.exc_info and SECRET in str(record.exc_info[1]) for record in caplog.records)


@pytest.mark.parametrize("key", ["sk-\x1b[31m", "sk a", "sk-ключ", "sk-\nX-Other: 1"])
def test_what_no_header_can_hold_is_refused_before_it_is_sent(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OTHER_KEY", key)
    with pytest.raises(
        ConfigurationError, match="OTHER_KEY does not contain a key: keys are printable ASCII"
    ) as caught:
        Endpoint("m", "http://127.0.0.1:1", key_env="OTHER_KEY")
    assert key not in str(caught.value)
    assert os.environ["OTHER_KEY"] == key


@pytest.mark.parametrize("status", [400, 500])
def test_control_characters_of_a_server_are_written_out(
    vllm: Habits, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    reason = "a\x1b]0;owned\x07 b\x9b31m c\u202ed \x00\r\n\te é 👍"

    def refuse(server: Habits, body: dict[str, Any]) -> Any:
        raise Refusal(status, {"error": {"message": reason}})

    monkeypatch.setattr(Habits, "answer", refuse)
    with pytest.raises((Refused, EndpointError)) as caught:
        ask(Endpoint("draft", vllm.url, retries=0))
    assert r"a\x1b]0;owned\x07 b\x9b31m c\u202ed \x00 e é 👍" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [{"text": "x", "finish_reason": "\x1b[2J"}]},
        {"choices": "\x1b[2J"},
        {"error": "\x1b[2J"},
        ["\x1b[2J"],
    ],
)
def test_control_characters_of_odd_answers_are_written_out(
    vllm: Habits, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    monkeypatch.setattr(Habits, "answer", lambda server, body: answer)
    model = load(f"openai,retries=0,profile=vllm,mode=completions:draft@{vllm.url}")
    with pytest.raises((EndpointError, ConfigurationError)) as caught:
        wait_for(model.generate(Path(as_prompt("?")), StepRequest((0,))))
    wait_for(model.aclose())
    assert str(caught.value).isprintable()
    assert "[2J" in str(caught.value)
    assert vllm.url in str(caught.value)


def test_the_doctor_shows_no_control_characters(
    vllm: Habits, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Habits, "models", lambda server: {"data": [{"id": "a\x1b[2Jb"}, {"id": "draft"}]})
    findings = {finding.name: finding.told for finding in wait_for(connect(vllm, profile="vllm").examine())}
    assert findings["model"] == r"a\x1b[2Jb, draft"
    assert all(text.isprintable() for text in findings.values())


@pytest.mark.parametrize(
    "url",
    [
        "http://a\x1b2J/v1",
        "http://[::1/v1",
        "http://127.0.0.1:1/v 1",
        "http://127.0.0.1:99999",
        "http://h:x",
        "http://é..example/v1",
    ],
)
def test_an_invalid_base_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a base URL") as caught:
        Endpoint("m", url)
    assert str(caught.value).isprintable()


def test_texts_are_cut_after_they_were_made_readable() -> None:
    assert readable("x" * 500) == "x" * 400
    assert readable("ab\ncd", 4) == r"ab\nc"
    assert readable("\ud800") == r"\ud800"
    assert reason_in('{"detail": {"message": " a  b\\n c "}}') == "a b c"
    assert reason_in('{"error": ""}') == '{"error": ""}'
    assert reason_in("<html>\nno") == "<html> no"
    assert reason_in(" ") == "no reason given"
