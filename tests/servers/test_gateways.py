"""LiteLLM's proxy and nginx between us and vLLM or llama-server: the same answers, or a refusal in clear words."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from rsd_core import DraftOnly, Generation, Path, StepRequest, load
from rsd_integrations.evaluation.tasks import find_task
from tests.servers.equality import shape
from tests.servers.gateways import LITELLM, NGINX, LiteLLM, Nginx
from tests.servers.launcher import Server, running
from tests.servers.routes import SETTINGS, answers, behind_litellm, outcome, spec, ways

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]
needs_nginx = pytest.mark.skipif(
    NGINX is None, reason="nginx is not installed; with `apt install nginx-light` or `brew install nginx` this runs"
)
PROBLEMS = 20
Behind = tuple[LiteLLM, dict[str, Server]]


@pytest.fixture(scope="module")
def behind() -> Iterator[Behind]:
    assert LITELLM.exists(), "`make servers` installs LiteLLM"
    with behind_litellm() as made:
        yield made


@pytest.fixture(scope="module")
def wanted() -> list[list[object]]:
    return answers("embedded:draft", PROBLEMS)


def test_every_way_through_litellm_is_equal_or_refused(behind: Behind, wanted: list[list[object]]) -> None:
    gateway, _ = behind
    found = {way: outcome(spec(gateway, *way), wanted) for way in ways(gateway)}
    equal = f"{PROBLEMS} of {PROBLEMS} equal"
    assert {way: told for way, told in found.items() if told != equal and not told.startswith("refused: ")} == {}
    works = {(route, mode, profile) for (route, mode, profile), told in found.items() if told == equal}
    completions = "vllm-text-completion-openai"
    assert {(completions, "ids", "vllm"), (completions, "ids", None)} <= works


def prefixed(server: Server, nginx: Nginx, prefix: str, options: str = "") -> str:
    return f"openai{options},tokenizer={server.folder}:{server.name}@{nginx.url_of(prefix)}"


@needs_nginx
def test_servers_below_prefixes_of_nginx_answer_as_without_it(behind: Behind, wanted: list[list[object]]) -> None:
    """Streams are buffered, connections that were idle for a second are closed, and /props is below the prefix."""
    _, servers = behind
    nginx = Nginx({f"/llm/{kind}/v1": server for kind, server in servers.items()}, keep_alive=1)
    with running(nginx):
        for kind, server in servers.items():
            assert outcome(prefixed(server, nginx, f"/llm/{kind}/v1"), wanted) == f"{PROBLEMS} of {PROBLEMS} equal"
        model = load(prefixed(servers["llamacpp"], nginx, "/llm/llamacpp/v1"))
        prompts = [item.prompt for item in find_task("embedded").draw(3, 11)]
        with DraftOnly(drafter=model, settings=SETTINGS) as decoder:
            for prompt, one in zip(prompts, wanted, strict=False):
                result = decoder.run(prompt)
                assert shape(result) == one
                assert result.degradations == ()
                threading.Event().wait(1.3)  # until nginx has closed the connection
        assert model.endpoint.concurrency == 4


@needs_nginx
def test_nothing_is_lost_when_what_is_behind_nginx_is_restarted_in_the_middle_of_a_batch(
    behind: Behind, wanted: list[list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers 502 meanwhile."""
    _, servers = behind
    llama = servers["llamacpp"]
    nginx = Nginx({"/llm/draft/v1": llama})
    prompts = [item.prompt for item in find_task("embedded").draw(PROBLEMS, 11)]
    begun, calls = threading.Event(), 0

    def restart() -> None:
        begun.wait()
        llama.kill()
        assert status(nginx) == 502
        threading.Event().wait(1.0)
        llama.start()
        llama.wait()

    restarting = threading.Thread(target=restart)
    with running(nginx):
        model = load(prefixed(llama, nginx, "/llm/draft/v1", ",patience=60"))
        generate = model.generate

        async def counted(path: Path, request: StepRequest) -> Generation:
            nonlocal calls
            calls += 1
            if calls == 40:
                begun.set()
            made: Generation = await generate(path, request)
            return made

        monkeypatch.setattr(model, "generate", counted)
        restarting.start()
        with DraftOnly(drafter=model, settings=SETTINGS) as decoder:
            results = decoder.run_many(prompts * 3, concurrency=4)
        assert begun.is_set()
        restarting.join()
    assert [shape(result) for result in results] == wanted * 3
    assert [result.degradations for result in results if result.degradations] == []


def status(nginx: Nginx) -> int:
    with socket.create_connection(("127.0.0.1", nginx.port), 10) as connection:
        connection.sendall(b"GET /llm/draft/v1/models HTTP/1.0\r\n\r\n")
        return int(connection.recv(64).split()[1])
