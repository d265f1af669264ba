"""The embedded models that think, behind vLLM with a reasoning parser and behind llama.cpp's own server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from rsd_core import (
    ConfigurationError,
    Limits,
    Path,
    Result,
    RSDConfig,
    Settings,
    StepRequest,
    TargetOnly,
    as_prompt,
    load,
)
from rsd_core.blocking import wait_for
from rsd_integrations.cli.app import app
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.evaluation.tasks import find_task
from tests.servers.equality import shape
from tests.servers.launcher import LlamaServer, Server, running

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]
DRAFT, TARGET = "thinking-draft", "thinking-target"
WINDOW = 1024
TURN = Settings(granularity="turn")
Servers = dict[str, Server]


@pytest.fixture(scope="module", params=["vllm", "llamacpp"])
def thinkers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Drafter and target behind servers of one kind."""
    kind = LlamaServer if request.param == "llamacpp" else Server
    parser = ("--reasoning-parser", "qwen3") if kind is Server else ()
    servers = {name: kind(name, FOLDER / name, window=WINDOW, arguments=parser) for name in (DRAFT, TARGET)}
    with running(*servers.values()):
        yield servers


def chat(server: Server, options: str = "") -> str:
    """The spec of the same model asked by chats."""
    return f"openai{options}:{server.name}@{server.url}"


def rsd(draft: str, target: str, problems: int, **more: Any) -> list[Result]:
    settings = Settings(limits=Limits(max_tokens=900), **more)
    config = RSDConfig(
        drafter=draft, verifier="embedded:prm", target=target, policy="binary_step:0.3", settings=settings
    )
    with config.build() as decoder:
        return decoder.run_many([item.prompt for item in find_task("embedded").draw(problems, 11)])


@pytest.mark.parametrize(("lookahead", "delimiter"), [(0, "\n\n"), (2, "\n\n"), (0, "sentence")])
def test_rsd_in_steps_by_ids_equals_rsd_in_process(thinkers: Servers, lookahead: int, delimiter: str) -> None:
    ours = rsd(f"embedded:{DRAFT}", f"embedded:{TARGET}", 12, delimiter=delimiter)
    theirs = rsd(thinkers[DRAFT].spec, thinkers[TARGET].spec, 12, delimiter=delimiter, lookahead=lookahead)
    assert [shape(result) for result in theirs] == [shape(result) for result in ours]
    assert [result.raw_text for result in theirs] == [result.raw_text for result in ours]
    steps = [step for result in theirs for step in result.steps]
    assert {step.kind for step in steps} == {"thought", "answer"}
    assert {step.author for step in steps} == {"draft", "target"}
    assert [result.degradations for result in theirs] == [result.degradations for result in ours]


def test_turns_by_chat_tell_thought_and_answer_apart(thinkers: Servers) -> None:
    prompt = find_task("embedded").draw(1, 11)[0].prompt
    whole = TargetOnly(target=load(f"embedded:{TARGET}"), settings=TURN).run(prompt)
    result = TargetOnly(target=load(chat(thinkers[TARGET])), settings=TURN).run(prompt)
    assert whole.thought.strip()
    assert (result.thought.strip(), result.text) == (whole.thought.strip(), whole.text)
    assert result.ledger.target.generated == whole.ledger.target.generated
    # The limit is more than the window, and the server is never asked for more than that leaves.
    assert result.finish_reason == "stop"


def test_tokens_that_end_inside_of_the_thought_are_used_up_and_no_context_is_full(thinkers: Servers) -> None:
    prompt = find_task("embedded").draw(1, 11)[0].prompt
    short = Settings(granularity="turn", limits=Limits(max_tokens=8))
    result = TargetOnly(target=load(chat(thinkers[TARGET])), settings=short).run(prompt)
    assert (result.text, result.answer, result.finish_reason) == ("", None, "max_tokens")
    assert result.thought
    assert [note.kind for note in result.degradations] == ["no_answer"]


def test_steps_by_chat_are_refused_with_what_to_do(thinkers: Servers) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot write steps in mode=chat.*tokenizer=.*enable_thinking=false"):
        TargetOnly(target=load(chat(thinkers[TARGET]))).run("Mia has 4 apples. She buys 2. How many has she now?")


def test_thinking_is_switched_off_in_either_mode(thinkers: Servers) -> None:
    server, off = thinkers[TARGET], ",template.enable_thinking=false"
    prompt = find_task("embedded").draw(1, 11)[0].prompt
    spec = f"openai{off},tokenizer={server.folder}:{server.name}@{server.url}"
    by_ids = TargetOnly(target=load(spec)).run(prompt)
    ours = TargetOnly(target=load(f"embedded{off}:{TARGET}")).run(prompt)
    assert (by_ids.text, by_ids.thought, len(by_ids.steps)) == (ours.text, "", len(ours.steps))
    turn = TargetOnly(target=load(chat(server, off)), settings=TURN).run(prompt)
    assert (turn.text, turn.thought) == (ours.text, "")


def test_a_history_with_thoughts_is_read_by_the_servers_template(thinkers: Servers) -> None:
    model = load(chat(thinkers[TARGET]))
    history: list[Any] = [
        ("user", "Hello"),
        {"role": "assistant", "content": "Hi.", "reasoning": "x" * 40},
        ("user", "Count."),
    ]
    kept = wait_for(model.generate(Path(as_prompt(history)), StepRequest((0,), 1, None))).usage.prefix
    assert kept > 0  # earlier thoughts are taken, whatever its template makes of them


def test_the_doctor_writes_the_spec_to_use(thinkers: Servers) -> None:
    specs = [chat(thinkers[TARGET]), thinkers[TARGET].spec]
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json", *specs]).output)
    by_chat, by_ids = ({one["name"]: one for one in found[spec]} for spec in specs)
    assert "template.enable_thinking=false" in by_chat["thoughts"]["told"]
    assert "of the message" in by_chat["thoughts"]["told"]
    assert by_chat["prefix"]["ok"] is False
    assert "template.enable_thinking=false" in by_ids["thoughts"]["told"]
    assert all(one["ok"] for one in by_ids.values()), by_ids
    assert by_ids["spec"]["told"] == specs[1]
