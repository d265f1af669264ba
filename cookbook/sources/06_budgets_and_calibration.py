# %% [markdown]
# # Budgets and calibration
#
# Learn to set a budget instead of guessing a threshold, and to find a threshold if you want one.
#
# A threshold belongs to one reward model and one task: 0.7 for one may be 0.3 for another. There are two solutions:
# record rewards once and **calibrate**, or set a **budget** and let the policy find the threshold while it runs.

# %%
from rsd_core import RSDConfig
from rsd_integrations.evaluation import calibrate, find_task

config = RSDConfig(verifier="embedded:prm")  # the trained reward model, which errs as real ones do
decoder = config.build()
problems = find_task("embedded-dev").draw(24, seed=0)
found = calibrate(decoder, problems)

# %% [markdown]
# ## Expected cost and accuracy of each threshold
#
# Two recordings are enough: the drafter's own answers, and drafts for each step of the target's answers. All thresholds
# are estimated from them, with intervals over problems. 24 problems keep this notebook quick but make the intervals
# wide; use 200 or more.

# %%
import matplotlib.pyplot as plt

curve = found.curve
figure, panels = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained", dpi=70)
for panel, name, label in zip(
    panels,
    ("target_share", "flops_paper", "accuracy"),
    ("share of steps by the target", "FLOPs per problem (paper)", "expected accuracy"),
):
    deltas = [row.delta for row in curve]
    low, high = zip(*(getattr(row, f"{name}_ci95") for row in curve))
    panel.fill_between(deltas, low, high, alpha=0.2, lw=0)
    panel.plot(deltas, [getattr(row, name) for row in curve], lw=1.5)
    panel.set(xlabel="threshold δ", ylabel=label)
    panel.grid(alpha=0.25)
plt.show()

# %%
chosen = found.cheapest()
row = found.row(chosen.delta)
print(f"cheapest δ expected to be as accurate as the target: {chosen.delta:.2f}")
print(f"expected share of the target {row.target_share:.0%}, accuracy {row.accuracy:.2f}")

# %% [markdown]
# ## A budget
#
# `BudgetAware` sends a given share of all steps to the target: those with the lowest rewards seen so far. The recorded
# rewards are its warm start. Watch the share approach the requested one, on problems it has never seen.

# %%
from rsd_core import RewardGuidedDecoder

tests = [item.prompt for item in find_task("embedded").draw(16, seed=5)]
shares = {}
for rate in (0.1, 0.3):
    policy = found.budget(rate)
    budgeted = RewardGuidedDecoder(
        drafter=decoder.drafter, verifier=decoder.verifier, target=decoder.target, policy=policy
    )
    steps = [step for prompt in tests for step in budgeted.run(prompt).steps]
    by_target = [step.author == "target" for step in steps]
    shares[rate] = [sum(by_target[: i + 1]) / (i + 1) for i in range(len(by_target))]
    print(f"asked for {rate:.0%}, got {shares[rate][-1]:.1%} of {len(steps)} steps")

# %%
figure, panel = plt.subplots(figsize=(7, 3), layout="constrained", dpi=70)
for rate, share in shares.items():
    (line,) = panel.plot(share, lw=1.5, label=f"budget {rate:.0%}")
    panel.axhline(rate, color=line.get_color(), ls=":", lw=1)
panel.set(xlabel="steps so far", ylabel="share by the target", ylim=(0, 0.6))
panel.legend()
panel.grid(alpha=0.25)
plt.show()

# %% [markdown]
# ## A budget for each request
#
# `request_budget:calls=1` is a hard limit: no answer calls the target more than once, and that call goes where the
# rewards are lowest, as far as the policy has learned what to expect.

# %%
from rsd_core import parse_policy

strict = RewardGuidedDecoder(
    drafter=decoder.drafter,
    verifier=decoder.verifier,
    target=decoder.target,
    policy=parse_policy("request_budget:calls=1"),
)
calls = [strict.run(prompt).ledger.target.calls for prompt in tests[:8]]
print("calls of the target, request by request:", calls)

# %% [markdown]
# ## Keep the policy
#
# A policy is data. The file works for `rsd run --policy policy.json` and for every adapter.

# %%
from pathlib import Path

from rsd_integrations.evaluation.calibration import write_policy

write_policy(chosen, Path("policy.json"))
print(Path("policy.json").read_text())

# %% [markdown]
# ## What next
#
# - [Evaluating against baselines](10_evaluating.ipynb): is it true on held-out problems?
# - `rsd calibrate --n 200 --out policy.json --plot calibration.png` does the first half as a command.
