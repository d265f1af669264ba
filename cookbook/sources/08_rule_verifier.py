# %% [markdown]
# # A rule as verifier
#
# Learn to write your own verifier, to let it abstain, and to put it in front of a model.
#
# Do not guess what you can check. A rule costs nothing, and abstains when it has nothing to say.

# %%
from rsd_core import Path, Step, as_prompt, load
from rsd_integrations.verifiers import Arithmetic

story = "Lea has 71 pens. Later she gets 36 as a gift. How many pens does Lea have now?"
before = Path(as_prompt(story))
for text in ("She gets 36 as a gift: 71+36=101+6=107.", "She gets 36 as a gift: 71+36=101+6=117.", "She is happy."):
    reward, why = Arithmetic().judge(before, Step(text, "delimiter"))
    print(reward, "|", why)

# %% [markdown]
# ## Your own rule
#
# The built-in rule checks the equations, not whether they are about the story. It misses a drafter that reads 63 where
# the story says 36. So we write the missing check: the amounts in a step must appear in the story.
#
# A `Rule` has one method. It returns a reward, or `None` to abstain, and the reason.

# %%
import re

from rsd_integrations.verifiers import Rule


class FromTheStory(Rule):
    """0 where a step uses an amount that the story does not name."""

    name = "rule:from the story"

    def judge(self, path: Path, step: Step) -> tuple[float | None, str]:
        story = path.prompt[-1].content
        heading, colon, _ = step.text.partition(":")
        told = re.findall(r"\d+", heading)
        if not colon or not told:
            return None, "names no amount"
        strange = [number for number in told if number not in re.findall(r"\d+", story)]
        return (0.0, f"{strange[0]} is not in the story") if strange else (None, "all amounts are in the story")


for text in ("She gets 36 as a gift: 71+36=107.", "She gets 63 as a gift: 71+63=134."):
    print(*FromTheStory().judge(before, Step(text, "delimiter")), sep=" | ")

# %% [markdown]
# ## Rules in front of a model
#
# A `Cascade` goes from cheap to expensive and stops as soon as one verifier is sure. A rule that finds a mistake ends
# it with 0; if the rules abstain, the reward model decides.

# %%
from rsd_core import BinaryStep, RewardGuidedDecoder
from rsd_integrations.verifiers import Cascade


class Faults(Arithmetic):
    """Wrong equations are wrong. Right ones prove little, so the next verifier is asked."""

    name = "rule:faults"

    def judge(self, path: Path, step: Step) -> tuple[float | None, str]:
        reward, why = super().judge(path, step)
        return (0.0 if reward == 0.0 else None), why


drafter, target, prm = load("embedded:draft"), load("embedded:target"), load("embedded:prm")
verifiers = {
    "rules alone": Cascade([Faults(), FromTheStory()]),
    "reward model alone": prm,
    "rules, then reward model": Cascade([Faults(), FromTheStory(), prm]),
}

# %% [markdown]
# Rules alone abstain on everything that is not clearly wrong. `on_abstain="accept"` keeps such steps.

# %%
from rsd_core import Settings
from rsd_integrations.evaluation import find_task

items = find_task("embedded").draw(24, seed=3)
for name, verifier in verifiers.items():
    decoder = RewardGuidedDecoder(
        drafter=drafter,
        verifier=verifier,
        target=target,
        policy=BinaryStep(delta=0.3),
        settings=Settings(on_abstain="accept"),
    )
    results = decoder.run_many([item.prompt for item in items])
    right = sum(item.grade(result.text) for item, result in zip(items, results))
    steps = [step for result in results for step in result.steps]
    by_target = sum(step.author == "target" for step in steps) / len(steps)
    flops = sum(result.ledger.verifier.flops for result in results) / len(results) / 1e6
    print(
        f"{name:25} {right}/{len(items)} right, {by_target:4.0%} of steps by the target, verifier {flops:3.0f} MFLOPs"
    )

# %% [markdown]
# Two dozen problems are a demonstration, not a measurement: the [evaluation](10_evaluating.ipynb) notebook has
# intervals. But the pattern is general: what rules can detect, they detect for free.
#
# ## As a spec
#
# The built-in rules have specs; with [a plugin](12_plugin_package.ipynb) yours has one too.

# %%
print(load("cascade:rule:arithmetic|(ensemble,how=min:rule:repetition|embedded:prm)"))

# %% [markdown]
# ## What next
#
# - [A plugin package](12_plugin_package.ipynb): publish your rule
# - [A judge](07_a_judge.ipynb): if you cannot write a rule
