"""The embedded verifier over thoughts that the embedded thinker wrote itself."""

import itertools

from rsd_core import Constant, RewardGuidedDecoder, Settings, load
from rsd_integrations.embedded.checker import judge
from rsd_integrations.embedded.task import problems


def test_right_steps_of_thoughts_stand_out_from_wrong_ones() -> None:
    drafter, target, verifier = (load(f"embedded:{name}") for name in ("thinking-draft", "thinking-target", "verifier"))
    settings = Settings(temperature=1.0, seed=3)
    decoder = RewardGuidedDecoder(
        drafter=drafter, verifier=verifier, target=target, policy=Constant(p=1), settings=settings
    )
    drawn = list(itertools.islice(problems("test", seed=5), 60))
    results = decoder.run_many([problem.question for problem in drawn])
    rewards: dict[bool, list[float]] = {True: [], False: []}
    for problem, result in zip(drawn, results, strict=True):
        judged = [step for step in result.steps if step.thought or step.content.strip()]
        for step, verdict in zip(
            judged, judge(problem, [step.thought or step.content for step in judged]), strict=False
        ):
            if step.kind == "thought":
                assert step.reward is not None
                rewards[verdict.right].append(step.reward)
    right, wrong = rewards[True], rewards[False]
    assert len(wrong) > 10
    assert sum(a > b for a in right for b in wrong) > 0.97 * len(right) * len(wrong)
