"""What becomes of answers on each way through LiteLLM's proxy: route by route, mode by mode, profile by profile.

python -m tests.servers.routes [--problems 20]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

from rsd_core import ConfigurationError, DraftOnly, Limits, RunError, Settings, load
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.evaluation.tasks import find_task
from tests.servers.equality import shape
from tests.servers.gateways import KEY, LiteLLM
from tests.servers.launcher import LlamaServer, Server, running

PROVIDERS = ("text-completion-openai", "hosted_vllm", "openai")
KEY_ENV = "RSD_TEST_GATEWAY_KEY"
SETTINGS = Settings(limits=Limits(max_tokens=300))


@contextmanager
def behind_litellm() -> Iterator[tuple[LiteLLM, dict[str, Server]]]:
    """The embedded drafter behind vLLM and behind llama-server with four slots, and LiteLLM before both."""
    servers = {"vllm": Server("draft", FOLDER / "draft"), "llamacpp": LlamaServer("draft", FOLDER / "draft", slots=4)}
    routes = {
        f"{kind}-{provider}": (provider, server)
        for kind, server in servers.items()
        for provider in (PROVIDERS if kind == "vllm" else PROVIDERS[:1])
    }
    gateway = LiteLLM(routes)
    os.environ[KEY_ENV] = KEY
    with running(*servers.values(), gateway):
        yield gateway, servers


def spec(gateway: Server, route: str, mode: str, profile: str | None) -> str:
    """The spec of one way."""
    options = [f"key_env={KEY_ENV}", "retries=0", "timeout=30"]
    options += [f"tokenizer={FOLDER / 'draft'}"] if mode == "ids" else []
    options += [f"profile={profile}"] if profile else []
    return f"openai,{','.join(options)}:{route}@{gateway.url}"


def answers(model: str, problems: int) -> list[list[object]]:
    """What the drafter answers alone."""
    prompts = [item.prompt for item in find_task("embedded").draw(problems, 11)]
    with DraftOnly(drafter=load(model), settings=SETTINGS) as decoder:
        if problems == 1:  # alone, it raises what was raised
            return [shape(decoder.run(prompts[0]))]
        return [shape(result) for result in decoder.run_many(prompts, concurrency=8)]


def outcome(model: str, wanted: list[list[object]]) -> str:
    """`20 of 20 equal`, `refused` with the words for it where the first step is, or `failed`."""
    try:
        answers(model, 1)
        made = answers(model, len(wanted))
    except ConfigurationError as error:
        return f"refused: {error}"
    except RunError as error:
        return f"failed: {error}"
    equal = sum(one == other for one, other in zip(made, wanted, strict=True))
    return f"{equal} of {len(wanted)} equal"


def ways(gateway: LiteLLM) -> Iterator[tuple[str, str, str | None]]:
    """All that is tried: routes, modes and profiles."""
    for route in gateway.routes:
        for mode in ("ids", "chat"):
            for profile in (None, route.partition("-")[0]):
                yield route, mode, profile


def main() -> None:
    """Start the servers, try, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=20)
    options = parser.parse_args()
    with behind_litellm() as (gateway, _):
        print("| route | mode | profile | outcome |\n|---|---|---|---|")
        wanted = answers("embedded:draft", options.problems)
        for route, mode, profile in ways(gateway):
            told = outcome(spec(gateway, route, mode, profile), wanted)
            print(f"| {route} | {mode} | {profile or 'none'} | {told} |", flush=True)


if __name__ == "__main__":
    main()
