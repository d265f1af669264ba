# %% [markdown]
# # A first run, and how to read its trace
#
# Learn how to run reward-guided speculative decoding (RSD), how to read a *trace*, and where the money goes.
#
# Three models work on one answer. A cheap **drafter** writes the next step. A **verifier** gives it a reward between 0
# and 1. If the reward is too low, the strong **target** rewrites the step. The models here are tiny, ship with the
# package and run on a laptop without a network.

# %%
from rsd_core import BinaryStep, RewardGuidedDecoder, load

decoder = RewardGuidedDecoder(
    drafter=load("embedded:draft"),
    verifier=load("embedded:verifier"),
    target=load("embedded:target"),
    policy=BinaryStep(delta=0.7),
)
question = (
    "Lea has 71 pens. Later she buys 56 more. Later she gets 36 as a gift. After that the sun shines. Then she buys 4 "
    "bags of 4. After that she buys 4 more. Next she walks 39 miles. How many pens does Lea have now?"
)
result = decoder.run(question)
print(result.answer, "·", result.finish_reason)

# %% [markdown]
# ## The trace
#
# `show` draws the run: who wrote each step, what the verifier thought of it, and what was discarded. Unfold the
# rejected draft of step 2: the drafter miscalculated, the verifier saw it, and the target corrected it.

# %%
from rsd_integrations.display import show

show(result, decoder)

# %% [markdown]
# Everything in the drawing is plain data.

# %%
for step in result.steps:
    reward = "     " if step.own_reward is None else f"{step.own_reward:.3f}"
    print(f"{step.author:6} {reward}  {step.text.strip()}")
print("rejected:", [step.discarded_draft.strip() for step in result.steps if step.discarded_draft])

# %% [markdown]
# ## As it happens
#
# The same run as a stream of events. Results, batches and the server are all built on this stream.

# %%
for event in decoder.stream(question):
    print(type(event).__name__, event.index)

# %% [markdown]
# ## What it cost
#
# The ledger charges every token to the model that computed it: prompts, discarded drafts, what the verifier read.
# *Reused* tokens were found in a cache and cost nothing. The paper counts less (no prompts), so the ledger has both
# figures.

# %%
for role in ("drafter", "verifier", "target"):
    account = result.ledger.account(role)
    print(
        f"{role:9} {account.calls} calls, {account.computed:4} tokens computed, {account.reused:4} reused, "
        f"{account.discarded:3} discarded, {account.flops / 1e6:7.1f} MFLOPs"
    )
alone, spent = result.ledger.target_only_flops, result.ledger.total.flops
print(f"the target alone would need {alone / spent:.2f} times as many FLOPs:", result.ledger.target_only_basis)

# %% [markdown]
# ## Keep it
#
# Save a result as JSON, or as a page that opens in any browser without a network.

# %%
import json
from pathlib import Path

from rsd_core import Result
from rsd_integrations.display import to_html

Path("result.json").write_text(json.dumps(result.to_dict()))
Path("trace.html").write_text(to_html(result, decoder), encoding="utf-8")
again = Result.from_dict(json.loads(Path("result.json").read_text()))
print(again.text == result.text, "·", len(Path("trace.html").read_text(encoding="utf-8")) // 1000, "kB of HTML")

# %% [markdown]
# ## What next
#
# - [Budgets and calibration](06_budgets_and_calibration.ipynb): where does 0.7 come from?
# - [A chat model](03_chat_and_streaming.ipynb) or [an LLM in a chain](02_langchain_llm.ipynb): RSD where your code
#   already has a model.
# - `rsd run --html trace.html` is this notebook as one command.
