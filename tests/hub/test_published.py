# ruff: noqa: E501 - the text is as published
"""Published weights against published scores. They run where the weights are in the local cache, and only there."""

import asyncio

import pytest
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from rsd_core import Path, Step, as_prompt
from rsd_integrations.huggingface import load_verifier
from rsd_integrations.prm_formats import FORMATS

PROBLEM = (
    "Sue lives in a fun neighborhood.  One weekend, the neighbors decided to play a prank on Sue.  On Friday "
    "morning, the neighbors placed 18 pink plastic flamingos out on Sue's front yard.  On Saturday morning, the neighbors took "
    "back one third of the flamingos, painted them white, and put these newly painted white flamingos back out on Sue's "
    "front yard.  Then, on Sunday morning, they added another 18 pink plastic flamingos to the collection. At noon on "
    "Sunday, how many more pink plastic flamingos were out than white plastic flamingos?"
)
STEPS = [
    "To find out how many more pink plastic flamingos were out than white plastic flamingos at noon on Sunday, we can "
    "break down the problem into steps. First, on Friday, the neighbors start with 18 pink plastic flamingos.",
    "On Saturday, they take back one third of the flamingos. Since there were 18 flamingos, (1/3 \\times 18 = 6) "
    "flamingos are taken back. So, they have (18 - 6 = 12) flamingos left in their possession. Then, they paint these 6 "
    "flamingos white and put them back out on Sue's front yard. Now, Sue has the original 12 pink flamingos plus the 6 "
    "new white ones. Thus, by the end of Saturday, Sue has (12 + 6 = 18) pink flamingos and 6 white flamingos.",
    "On Sunday, the neighbors add another 18 pink plastic flamingos to Sue's front yard. By the end of Sunday morning, "
    "Sue has (18 + 18 = 36) pink flamingos and still 6 white flamingos.",
    "To find the difference, subtract the number of white flamingos from the number of pink flamingos: (36 - 6 = 30). "
    "Therefore, at noon on Sunday, there were 30 more pink plastic flamingos out than white plastic flamingos. The "
    "answer is (\\boxed{30}).",
]
EXPECTED = {
    # The second step is the wrong one. Values: the model card's, the authors' snippet; formats without any are held
    # to the order alone.
    "Qwen/Qwen2.5-Math-PRM-7B": [1.0, 0.19, 0.977, 1.0],
    "ActPRM/ActPRM": [0.9994, 0.2317, 0.7312, 0.8314],
}


@pytest.mark.parametrize("model", sorted({m for f in FORMATS.values() for m in f.models if "/" in m}))
def test_the_wrong_step_of_the_published_example_scores_lowest(model: str) -> None:
    try:
        snapshot_download(model, local_files_only=True)
    except (LocalEntryNotFoundError, OSError):
        pytest.skip(f"the weights of {model} are not in the local cache: fetch them to run this test")
    options = {"allow_pickles": True} if model in ("infly/Universal-PRM-7B", "Gen-Verse/ReasonFlux-PRM-1.5B") else {}
    separator = {"separator": "\n"} if model == "ZaandaTeika/SHARP-PRM" else {}
    verifier = load_verifier(model, **options, **separator)  # type: ignore[arg-type]
    path, rewards = Path(as_prompt(PROBLEM)), list[float]()
    for text in STEPS:
        step = Step(text + "\n\n", "delimiter")
        (reward,) = asyncio.run(verifier.score(path, [step])).rewards
        rewards.append(reward or 0.0)
        path = path.extend(step)
    assert rewards[1] < rewards[0]
    if model in EXPECTED:
        assert rewards == pytest.approx(EXPECTED[model], abs=0.05)
