"""The embedded verifier, which knows no markers, over thoughts: as over plain solutions, right steps stand out."""

import asyncio
import itertools

import pytest

from rsd_core import Limits, Path, RewardGuidedDecoder, Settings, Step, Thinking, Verifier, as_prompt
from rsd_core.testing import ScriptedDrafter, ScriptedTarget
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.embedded.models import load
from rsd_integrations.embedded.task import Problem, problems

THINK = MARKERS["think"]
PROBLEMS = list(itertools.islice(problems("test", seed=5), 30))


def off_by_one(step: str) -> str:
    """The same step with another last number."""
    at = max(i for i, char in enumerate(step) if char.isdigit())
    return f"{step[:at]}{(int(step[at]) + 1) % 10}{step[at + 1 :]}"


def rewards(verifier: Verifier, problem: Problem, thinking: bool) -> list[tuple[float, float]]:
    """Of each step before the answer and a wrong one in its place."""
    path = Path(as_prompt(problem.question), thinking=Thinking(THINK) if thinking else None)
    *steps, _ = problem.solution()
    pairs = []
    for i, text in enumerate(steps):
        begin = THINK.begin() if thinking and i == 0 else ""
        end = THINK.ending if thinking and i == len(steps) - 1 else "\n\n"
        candidates = [Step(f"{begin}{own.strip()}{end}", "delimiter") for own in (text, off_by_one(text))]
        right, wrong = asyncio.run(verifier.score(path, candidates)).rewards
        assert right is not None
        assert wrong is not None
        pairs.append((right, wrong))
        path = path.extend(candidates[0])
    return pairs


@pytest.mark.parametrize("name", ["verifier", "prm"])
def test_steps_of_a_thought_are_distinguished_as_those_of_a_solution(name: str) -> None:
    verifier = load(name)
    assert isinstance(verifier, Verifier)
    thought = [pair for problem in PROBLEMS for pair in rewards(verifier, problem, thinking=True)]
    plain = [pair for problem in PROBLEMS for pair in rewards(verifier, problem, thinking=False)]
    assert len(thought) > 90
    for own, other in zip(thought, plain, strict=True):
        assert own == pytest.approx(other, rel=1e-3, abs=1e-5)
    if name == "verifier":  # the trained one does not see such slips, in thoughts or elsewhere
        assert sum(right > wrong for right, wrong in thought) > 0.97 * len(thought)


@pytest.mark.parametrize("lookahead", [0, 2])
@pytest.mark.parametrize("name", ["verifier", "prm"])
def test_a_decoder_gets_the_rewards_of_a_plain_solution(name: str, lookahead: int) -> None:
    verifier, problem = load(name), PROBLEMS[0]
    assert isinstance(verifier, Verifier)
    *steps, answer = problem.solution()
    script = [*steps[:-1], f"{steps[-1].strip()}\n\n", "</think>\n\n", answer]

    def decode(texts: list[str], thinking: Thinking | None) -> list[float | None]:
        decoder = RewardGuidedDecoder(
            drafter=ScriptedDrafter(texts, thinking=thinking),
            verifier=verifier,
            target=ScriptedTarget(texts, thinking=thinking),
            settings=Settings(lookahead=lookahead, limits=Limits(max_tokens=4000)),
        )
        result = decoder.run(problem.question)
        assert not result.degradations
        assert result.text == answer if thinking else result.text.endswith(answer)
        return [record.reward for record in result.steps]

    thought = decode(script, Thinking(THINK, "<think>\n"))
    plain = decode([text for text in script if "think" not in text], None)
    assert thought.pop(len(steps)) is None
    assert thought == pytest.approx(plain, rel=1e-3, abs=1e-5)
