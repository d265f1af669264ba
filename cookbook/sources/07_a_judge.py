# %% [markdown]
# # A judge instead of a reward model
#
# Learn the three kinds of judges, and how to find out in a minute whether you can trust one.
#
# No reward model for your field? A language model can judge. It can answer with one word (fast), with a score after
# some thought (more expensive), or be a LangChain model with your own rubric.

# %% [markdown]
# ## First: measure
#
# The embedded task has an exact checker, so we know which drafted steps are right. A verifier is as good as its rewards
# separate right steps from wrong ones. The measure is the probability that a right step scores higher than a wrong one
# (AUC): 0.5 is chance, 1.0 is perfect.

# %%
import itertools

from rsd_core import DraftOnly, Path, Settings, Step, as_prompt, load
from rsd_integrations.embedded.checker import judge
from rsd_integrations.embedded.task import problems

tasks = list(itertools.islice(problems("test", 11), 20))
drafter = DraftOnly(drafter=load("embedded:draft"), settings=Settings(temperature=1.0))  # warm: it errs more often
answers = drafter.run_many([task.question for task in tasks])
steps = []  # path before the step, the step, whether it is right
for task, answer in zip(tasks, answers):
    path = Path(as_prompt(task.question))
    texts = [record.text for record in answer.steps]
    for text, verdict in zip(texts, judge(task, texts)):
        step = Step(text, "delimiter", size=8)
        steps.append((path, step, verdict.right))
        path = path.extend(step)
print(len(steps), "drafted steps,", sum(not right for *_, right in steps), "of them wrong")


def auc(rewards):
    """Ties count half; a step without a reward counts as undecided."""
    known = [(0.5 if reward is None else reward, right) for reward, (*_, right) in zip(rewards, steps)]
    pairs = [(good, bad) for good, right in known if right for bad, wrong in known if not wrong]
    return sum((good > bad) + (good == bad) / 2 for good, bad in pairs) / len(pairs)


async def rewards_of(verifier):
    return [(await verifier.score(path, [step])).rewards[0] for path, step, _ in steps]


for spec in ("embedded:verifier", "embedded:prm"):
    print(f"{spec:22} {auc(await rewards_of(load(spec))):.3f}")

# %% [markdown]
# ## A judge of one word
#
# `judge:SPEC` asks any generator that reports probabilities for a digit from 0 to 9 and takes the expected value. The
# embedded target was trained only on word problems, never to judge:

# %%
rewards = await rewards_of(load("judge:embedded:target"))
known = [reward for reward in rewards if reward is not None]
print(f"rewards between {min(known):.2f} and {max(known):.2f}, {len(rewards) - len(known)} abstentions")
print(f"AUC {auc(rewards):.3f}")

# %% [markdown]
# It answers with digits, because it only knows numbers. The rewards themselves do not tell how far to trust them; the
# measurement does, and it is well below both models above. (Ten wrong steps give a rough figure. Use hundreds before
# you decide.) An instruction-tuned model works the same way: `judge:hf:Qwen/Qwen2.5-7B-Instruct`.
#
# ## A LangChain model with your rubric
#
# `LangChainJudge` asks for a line `Score: N`. The stand-in below is a careful judge that checks the arithmetic; with a
# provider, use `LangChainJudge(ChatAnthropic(model="…"), rubric=…)`.

# %%
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from rsd_integrations.langchain import LangChainJudge
from rsd_integrations.verifiers import equations


class CarefulStandIn(BaseChatModel):
    """Checks the equations of the latest step, as a good judge would."""

    @property
    def _llm_type(self) -> str:
        return "stand-in"

    def _generate(self, messages, stop=None, run_manager=None, **options):
        latest = str(messages[-1].content).partition("# The latest step\n")[2]
        holds = [right for _, right in equations(latest)]
        score = 5 if not holds else 9 if all(holds) else 0
        text = f"{sum(holds)} of {len(holds)} equations hold.\nScore: {score}"
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


rubric = (
    "You check the arithmetic of a solution. Look at the latest step alone. 9: every equation holds. 0: one does not. "
    "5: there is none. End with one line of the form: Score: N"
)
careful = LangChainJudge(CarefulStandIn(), rubric=rubric)
rewards = await rewards_of(careful)
print(f"AUC {auc(rewards):.3f}; scores given: {sorted({round(reward, 2) for reward in rewards})}")

# %% [markdown]
# It only detects arithmetic mistakes: it misses a draft that takes a wrong number from the story. That is a limit of
# the rubric, not of the method.
#
# ## In place of the reward model

# %%
from rsd_core import BinaryStep, RewardGuidedDecoder
from rsd_integrations.display import show

decoder = RewardGuidedDecoder(
    drafter=load("embedded:draft"),
    verifier=careful,
    target=load("embedded:target"),
    policy=BinaryStep(delta=0.5),
    settings=Settings(temperature=1.0),
)
slip = next(task for task, answer in zip(tasks, answers) if any(not r for _, r in equations(answer.text)))
show(decoder.run(slip.question), decoder)

# %% [markdown]
# ## What next
#
# - [A rule as verifier](08_rule_verifier.ipynb): the same check without any model
# - [Calibration](06_budgets_and_calibration.ipynb): judges need their own threshold
