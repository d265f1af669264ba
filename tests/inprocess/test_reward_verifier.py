"""Reward models in each backend under pressure: room for two paths, cancelled calls, a cache that is used again."""

import asyncio
import threading
from pathlib import Path as Folder

import pytest

from rsd_core import Interrupted, Path, Step, as_prompt
from rsd_integrations.inprocess import runner
from rsd_integrations.inprocess.reward_verifier import RewardVerifier
from tests.huggingface.reward_models import CASES
from tests.inprocess.backends import BACKENDS, load, make_safe, tokens_read
from tests.inprocess.test_reward_models import QUESTION, STEPS, extended, step

ROOM = 512 * 512
"""Bytes for 512 tokens, the least that the models' context allows."""
pytestmark = pytest.mark.filterwarnings("ignore:.*not initialized.*")


@pytest.fixture(scope="module", params=["skywork", "math-shepherd"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Folder]:
    return request.param, make_safe(request.param, tmp_path_factory.mktemp("prm") / request.param)


@pytest.fixture(params=BACKENDS)
def model(request: pytest.FixtureRequest, made: tuple[str, Folder]) -> RewardVerifier:
    return load(request.param, *made, cache_bytes=ROOM)


def test_evicted_paths_are_read_again_and_score_the_same(made: tuple[str, Folder], model: RewardVerifier) -> None:
    name, folder = made
    questions = [f"{QUESTION} And on day {number}?" for number in range(6)]
    paths = [Path(as_prompt(question)) for question in questions]
    rewards: list[list[float]] = [[] for _ in paths]

    async def advance(at: int, text: str) -> int:
        scores = await model.score(paths[at], [step(text), step("No.")])
        rewards[at].append(scores.rewards[0] or 0.0)
        paths[at] = paths[at].extend(step(text))
        return scores.usage.computed

    async def all_of_them() -> int:
        return sum([sum(await asyncio.gather(*[advance(at, text) for at in range(len(paths))])) for text in STEPS])

    with tokens_read(model) as counts:
        computed = asyncio.run(all_of_them())
    assert computed == sum(counts)
    assert model.runner.store.evicted > 0
    for question, own in zip(questions, rewards, strict=True):
        assert own == pytest.approx(CASES[name].rewards(folder, question, STEPS), abs=1e-5)


def test_a_cancelled_score_tells_its_work_and_the_next_one_goes_on_from_it(
    made: tuple[str, Folder], model: RewardVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PREFILL_CHUNK", 16)
    path, computed, go_on = extended(STEPS[:2]), threading.Event(), threading.Event()
    one_pass = model.runner.step

    def slow() -> None:
        one_pass()
        computed.set()
        go_on.wait(5)

    async def cut() -> int:
        task = asyncio.ensure_future(model.score(path, [step(STEPS[2])]))
        await asyncio.to_thread(computed.wait, 5)
        task.cancel()
        await asyncio.sleep(0.01)
        go_on.set()
        with pytest.raises(Interrupted) as interrupted:
            await task
        return interrupted.value.usage.computed

    monkeypatch.setattr(model.runner, "step", slow)
    assert asyncio.run(cut()) == 16  # one chunk
    monkeypatch.setattr(model.runner, "step", one_pass)
    scores = asyncio.run(model.score(path, [step(STEPS[2])]))
    assert scores.usage.reused == 16
    name, folder = made
    assert scores.rewards[0] == pytest.approx(CASES[name].rewards(folder, QUESTION, STEPS[:3])[-1], abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_was_read_is_read_once_in_whatever_order_it_is_asked_for(backend: str, made: tuple[str, Folder]) -> None:
    model = load(backend, *made)
    path = extended(STEPS[:1])
    candidates = [Step(f"{text}\n\n", "delimiter") for text in STEPS[1:4]]
    with tokens_read(model) as counts:
        together = asyncio.run(model.score(path, candidates))
        again = asyncio.run(model.score(path, candidates[1:2]))
    prefix = len(model.layouts.ids(path)[0])
    fed = [len(model.layouts.step(path, candidate).feed) for candidate in candidates]
    assert together.usage.computed == prefix + sum(fed)
    assert again.usage.computed <= 1  # the last token, where another one was the last that was asked about
    assert again.rewards[0] == pytest.approx(together.rewards[1], abs=1e-6)
    assert sum(counts) == together.usage.computed + again.usage.computed
