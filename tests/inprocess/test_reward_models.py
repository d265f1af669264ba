"""Every known reward model: incremental scores equal the card's own computation, whatever happens in between."""

import asyncio
import random
from pathlib import Path as Folder

import pytest

from rsd_core import Path, Step, as_prompt
from rsd_integrations.inprocess.reward_verifier import RewardVerifier
from tests.huggingface.reward_models import CASES
from tests.inprocess.backends import MODELS, load, make_safe, tokens_read

QUESTION = "Mia has 45 apples. On Monday she buys 12 more. How many apples does Mia have now?"
STEPS = [
    "On Monday she buys 12 more: 45+12=57.",
    "So + or - ?",
    "She has 12 apples,\nand 45 more.",
    "**Bold** (57) + 0 - 0",
    "The answer is \\boxed{57}.",
]
pytestmark = pytest.mark.filterwarnings("ignore:.*not initialized.*")


def step(text: str) -> Step:
    return Step(f"{text}\n\n", "delimiter")


def extended(texts: list[str]) -> Path:
    path = Path(as_prompt(QUESTION))
    for text in texts:
        path = path.extend(step(text))
    return path


def one(model: RewardVerifier, path: Path, text: str) -> float:
    (reward,) = asyncio.run(model.score(path, [step(text)])).rewards
    assert reward is not None
    return reward


Made = tuple[str, str, Folder]


@pytest.fixture(scope="module", params=MODELS, ids=" ".join)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    backend, name = request.param
    return backend, name, make_safe(name, tmp_path_factory.mktemp("prm") / name)


@pytest.fixture(scope="module")
def model(made: Made) -> RewardVerifier:
    return load(*made)


def wanted(made: Made, texts: list[str]) -> list[float]:
    _, name, folder = made
    return CASES[name].rewards(folder, QUESTION, texts)


def test_incremental_scores_equal_the_card(made: Made, model: RewardVerifier) -> None:
    path, rewards = extended([]), []
    for text in STEPS:
        rewards.append(one(model, path, text))
        path = path.extend(step(text))
    assert rewards == pytest.approx(wanted(made, STEPS), abs=1e-5)
    assert max(rewards) - min(rewards) > 1e-3


def test_candidates_branches_and_rollback_change_nothing(made: Made, model: RewardVerifier) -> None:
    rng = random.Random(made[1])
    path, texts = extended([]), list[str]()
    asked: list[tuple[list[str], float]] = []
    for _ in range(12):
        candidates = rng.sample(STEPS, rng.randint(1, 3))
        scores = asyncio.run(model.score(path, [step(text) for text in candidates])).rewards
        asked += [([*texts, text], reward or 0.0) for text, reward in zip(candidates, scores, strict=True)]
        if rng.random() < 0.6 and len(texts) < 4:
            texts = [*texts, rng.choice([*candidates, STEPS[0]])]
            path = path.extend(step(texts[-1]))
        elif path.parent is not None:
            texts, path = texts[:-1], path.parent
    for own, reward in asked[:: max(1, len(asked) // 6)]:
        assert reward == pytest.approx(wanted(made, own)[-1], abs=1e-5)


def test_concurrent_requests_equal_single_ones(made: Made, model: RewardVerifier) -> None:
    async def all_at_once() -> list[float | None]:
        calls = [model.score(extended(STEPS[:n]), [step(STEPS[n])]) for n in range(len(STEPS))]
        return [scores.rewards[0] for scores in await asyncio.gather(*calls)]

    assert asyncio.run(all_at_once()) == pytest.approx(wanted(made, STEPS), abs=1e-5)


def test_later_text_never_changes_an_earlier_score(made: Made) -> None:
    shown, changed = wanted(made, STEPS), wanted(made, [*STEPS[:2], STEPS[4], STEPS[4], STEPS[0]])
    assert shown[:2] == pytest.approx(changed[:2], abs=1e-6)


def test_only_the_new_step_is_read(made: Made, model: RewardVerifier) -> None:
    before = extended(STEPS[:2])
    known = model.explain(before, step(STEPS[2])).kept
    after = before.extend(step(STEPS[2]))
    with tokens_read(model) as counts:
        first = asyncio.run(model.score(before, [step(STEPS[2])])).usage
        second = asyncio.run(model.score(after, [step(STEPS[3])])).usage
    assert second.reused == known
    assert second.computed == second.scored == len(model.explain(after, step(STEPS[3])).tokens) - known
    assert first.scored < first.computed  # the prompt is computed, but is not part of the answer
    assert sum(counts) == first.computed + second.computed


def test_the_closing_tokens_are_rolled_back(made: Made, model: RewardVerifier) -> None:
    told = model.explain(extended([]), step(STEPS[0]))
    fed = [id_ for id_, _ in told.tokens]
    onward = [id_ for id_, _ in model.explain(extended(STEPS[:1]), step(STEPS[1])).tokens]
    assert onward[: told.kept] == fed[: told.kept]
    assert told.read == (len(fed) - 1,)
    if made[1] in ("universal", "outcome", "outcome-llama"):
        assert told.kept < len(fed)
        assert onward[: len(fed)] != fed


SPACED = [" Add. \u00a0\t\n\n", "\nThen 45+12  \n\n", "\tis 57\r\n\r\n", "So 57\n\n\n", "\n\n + 0 \n \n\n", "57 "]


def test_no_white_space_stops_it(model: RewardVerifier) -> None:
    path = Path(as_prompt(f" \u00a0{QUESTION}\r\n\t"))
    for text in SPACED:
        (reward,) = asyncio.run(model.score(path, [Step(text, "delimiter")])).rewards
        assert reward is not None
        path = path.extend(Step(text, "delimiter"))
