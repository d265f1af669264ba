"""llama.cpp's own server with four slots: ids, chats, streams, log-probabilities, window, cache, and the guide."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import time
from collections.abc import Iterator

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from rsd_core import DraftOnly, Path, PromptError, Result, RSDConfig, StepRequest, as_prompt, load
from rsd_core.blocking import wait_for
from rsd_core.concurrency import run_all
from rsd_integrations.cli.app import app
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.evaluation.tasks import find_task
from tests.servers.equality import shape
from tests.servers.launcher import ROOT, LlamaServer, running

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]
SLOTS = 4
Servers = dict[str, LlamaServer]
QUESTION = "Mia has 45 apples. Then she buys 12 more. How many apples does Mia have now?"


@pytest.fixture(scope="module")
def llama() -> Iterator[Servers]:
    servers = {name: LlamaServer(name, FOLDER / name, slots=SLOTS) for name in ("draft", "target")}
    with running(*servers.values()):
        yield servers


def chat(server: LlamaServer, options: str = "") -> str:
    return f"openai{options}:{server.name}@{server.url}"


def rsd(drafter: str, target: str, **more: object) -> list[Result]:
    config = RSDConfig.parse(
        {"drafter": drafter, "target": target, "verifier": "embedded:prm", "policy": "binary_step:0.3", **more}
    )
    with config.build() as decoder:
        return decoder.run_many([item.prompt for item in find_task("embedded").draw(20, 11)])


@pytest.mark.parametrize("lookahead", [0, 3])
def test_rsd_by_ids_equals_rsd_in_process(llama: Servers, lookahead: int) -> None:
    ours = rsd("embedded:draft", "embedded:target")
    theirs = rsd(llama["draft"].spec, llama["target"].spec, settings={"lookahead": lookahead})
    assert [shape(result) for result in theirs] == [shape(result) for result in ours]
    assert [result.degradations for result in theirs if result.degradations] == []


def test_steps_by_chat_write_the_same_text(llama: Servers) -> None:
    prompts = [item.prompt for item in find_task("embedded").draw(20, 11)]
    ours, theirs = (
        DraftOnly(drafter=load(spec)).run_many(prompts) for spec in ("embedded:draft", chat(llama["draft"]))
    )
    assert [(result.text, result.finish_reason) for result in theirs] == [
        (result.text, result.finish_reason) for result in ours
    ]
    assert max(len(result.steps) for result in theirs) > 2


@pytest.mark.parametrize("mode", ["ids", "chat"])
def test_confidence_is_that_of_the_drafter_in_process(llama: Servers, mode: str) -> None:
    server = llama["draft"]
    by_ids = server.spec.replace("openai,", "openai,logprobs=true,")
    remote = chat(server, ",logprobs=true") if mode == "chat" else by_ids
    path, confidence = Path(as_prompt(QUESTION)), load("confidence:min")
    rewards = []
    for spec in ("embedded:draft", remote):
        steps = wait_for(load(spec).generate(path, StepRequest((0,), 60))).steps
        rewards.append(asyncio.run(confidence.score(path, steps)).rewards[0])
    assert rewards[0] is not None
    assert rewards[1] == pytest.approx(rewards[0], abs=0.02), "its cache is in half precision"


def test_the_window_is_that_of_a_slot(llama: Servers) -> None:
    server = llama["draft"]
    model = load(server.spec)
    with pytest.raises(PromptError, match=str(server.window)):
        DraftOnly(drafter=model).run("apples " * server.window)
    told = wait_for(load(chat(server)).examine())
    assert f"{server.window} tokens" in [one.told for one in told]


def test_requests_run_in_as_many_slots_as_it_has(llama: Servers) -> None:
    server = llama["target"]
    model = load(server.spec)
    request = StepRequest((0,), 300, None)

    async def at_work() -> int:
        """The most slots that were at work at once while twice as many requests were under way."""
        calls = [model.generate(Path(as_prompt(f"{i} {QUESTION}")), request) for i in range(2 * SLOTS)]
        writing, most = asyncio.ensure_future(run_all(calls)), 0
        async with httpx.AsyncClient(base_url=server.url.removesuffix("/v1")) as client:
            while not writing.done():
                slots = (await client.get("/slots")).json()
                most = max(most, sum(slot["is_processing"] for slot in slots))
        await writing
        return most

    assert wait_for(at_work()) == SLOTS
    assert model.endpoint.concurrency == SLOTS


def test_what_a_slot_still_has_of_the_prompt_is_charged_as_cached(llama: Servers) -> None:
    model, path = load(llama["draft"].spec), Path(as_prompt(f"{QUESTION} {time.time_ns()}"))
    first = wait_for(model.generate(path, StepRequest((0,), 60)))
    second = wait_for(model.generate(path.extend(first.steps[0]), StepRequest((0,), 60)))
    assert first.usage.prefix - first.usage.reused > 5, "nobody has asked that before"
    fresh = second.usage.prefix - second.usage.reused
    assert 1 <= fresh <= len(first.steps[0].tokens) + 1, "the prompt is in its slot"
    assert second.usage.computed == fresh + second.usage.generated


def commands(page: str) -> list[list[str]]:
    """The `rsd` lines of the section on llama.cpp."""
    section = (ROOT / "docs" / "guides" / page).read_text().split("## llama.cpp")[1].split("\n## ")[0]
    return [shlex.split(line.removeprefix("$ rsd ")) for line in section.splitlines() if line.startswith("$ rsd ")]


def moved(text: str, servers: Servers) -> str:
    """A text of the docs with its servers and models replaced by ours."""
    for name, size in (("draft", "small"), ("target", "large")):
        server = servers[name]
        text = re.sub(rf"tokenizer=[^,:]*:{size}@", f"tokenizer={server.folder}:{size}@", text)
        text = re.sub(rf"{size}@http://127.0.0.1:\d+/v1", f"{name}@{server.url}", text)
    return text


def test_the_commands_of_the_guide_run(llama: Servers) -> None:
    lines = commands("local-servers.md")
    assert [line[0] for line in lines] == ["doctor", "run", "run"]
    for line in lines:
        done = CliRunner().invoke(app, [moved(part, llama) for part in line])
        assert done.exit_code == 0, done.output


def test_the_recipe_runs(llama: Servers) -> None:
    text = (ROOT / "cookbook" / "recipes" / "llamacpp.yaml").read_text()
    config = RSDConfig.parse(yaml.safe_load(moved(text, llama)))
    with config.build() as decoder:
        result = decoder.run(QUESTION)
    assert result.finish_reason == "stop"
    assert result.steps


def test_the_doctor_finds_it_well_in_either_mode(llama: Servers) -> None:
    specs = [llama["draft"].spec, chat(llama["draft"])]
    done = CliRunner().invoke(app, ["doctor", "--json", *specs])
    found = json.loads(done.output)
    assert all(one["ok"] for spec in specs for one in found[spec]), found
    assert [one["told"] for one in found[specs[0]] if one["name"] == "spec"] == [specs[0]]
