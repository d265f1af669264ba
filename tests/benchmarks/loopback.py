"""The requests of a client in lock-step to three vLLM servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from rsd_core import Path, Step
from rsd_integrations.openai_compatible import PROFILES, OpenAIGenerator
from rsd_integrations.openai_compatible.reward_models import PoolingVerifier
from tests.benchmarks.lockstep import Live, Score, Write

MAX_TOKENS = 128


def batched(drafter: OpenAIGenerator, verifier: PoolingVerifier, target: OpenAIGenerator) -> tuple[Write, Score, Write]:
    """One request per role for all problems, with the whole text of each.

    Prompts are rendered and laid out as by this library's own roles, so that both clients send the same requests.
    """
    client = httpx.AsyncClient(timeout=300)

    def writes(model: OpenAIGenerator) -> Write:
        async def write(live: Sequence[Live]) -> Sequence[Step]:
            data = await _post(
                client,
                f"{model.endpoint.base_url}/completions",
                model=model.endpoint.model,
                prompt=[model.prompts.render(_path(problem), PROFILES["vllm"]).fields["prompt"] for problem in live],
                max_tokens=MAX_TOKENS,
                temperature=0,
                stop=["\n\n"],
                include_stop_str_in_output=True,
            )
            choices = sorted(data["choices"], key=lambda choice: choice["index"])
            return [Step(choice["text"], "delimiter" if choice["stop_reason"] else "end") for choice in choices]

        return write

    async def score(drafts: Sequence[tuple[Live, Step]]) -> Sequence[float]:
        paths = [(_path(problem), step) for problem, step in drafts]
        layouts = verifier.layouts
        data = await _post(
            client,
            f"{verifier.endpoint.root}/pooling",
            model=verifier.endpoint.model,
            input=[[*layouts.ids(path)[0], *layouts.step(path, step).feed] for path, step in paths],
            use_activation=True,
        )
        entries = sorted(data["data"], key=lambda entry: entry["index"])
        return [entry["data"][-1][1] for entry in entries]

    return writes(drafter), score, writes(target)


def _path(problem: Live) -> Path:
    path = Path(problem.prompt)
    for step in problem.steps:
        path = path.extend(step)
    return path


async def _post(client: httpx.AsyncClient, url: str, **body: Any) -> Any:
    answer = await client.post(url, json=body)
    answer.raise_for_status()
    return answer.json()
