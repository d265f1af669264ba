# %% [markdown]
# # Evaluating against baselines
#
# Learn to compare RSD with its models alone and with other ways to spend the same FLOPs, on the same problems and with
# the same ledger.

# %%
from rsd_core import RSDConfig
from rsd_integrations.evaluation import evaluate

methods = ["rsd@binary_step:0.5", "rsd@budget_aware:0.1", "target", "draft", "majority:4"]
report = evaluate(RSDConfig(), "embedded", methods, n=12, seed=1)

# %% [markdown]
# ## The table
#
# Accuracy with intervals, the share of steps by the target, and FLOPs by two conventions. *Paper*: two per weight for
# each token written or newly scored. *All*: every token that any model computed, including prompts and rejected drafts.

# %%
from rsd_integrations.evaluation import wilson

alone = report.methods["target"]
print(f"{'method':22} {'accuracy (95 %)':22} target   paper    all")
for name, method in report.methods.items():
    low, high = wilson(method.right, method.n)
    print(
        f"{name:22} {method.accuracy:.3f} ({low:.3f}–{high:.3f})   {method.by_target / method.steps:6.1%}  "
        f"{alone.flops_paper / method.flops_paper:5.2f}x {alone.flops / method.flops:5.2f}x"
    )

# %% [markdown]
# ## Paired comparison
#
# All methods answered the same problems, so differences are compared in pairs: bootstrap intervals, and McNemar's exact
# test. With 12 problems the intervals are wide; an interval that contains 0 does not prove equality.

# %%
for name, found in report.comparisons().items():
    low, high = found.ci95
    print(f"{name:22} {found.difference:+.3f} ({low:+.3f} to {high:+.3f}), p = {found.p_value:.3f}")

# %% [markdown]
# ## The picture
#
# Accuracy against cost. No method on the front is beaten by a cheaper one.

# %%
import matplotlib.pyplot as plt

from rsd_integrations.evaluation.plots import pareto

points = [(name, m.flops_paper / m.n / 1e6, m.accuracy, wilson(m.right, m.n)) for name, m in report.methods.items()]
figure, panel = plt.subplots(figsize=(7, 4), layout="constrained", dpi=70)
for marker, (name, cost, accuracy, (low, high)) in zip("osD^v", points):
    bars = [[max(0, accuracy - low)], [max(0, high - accuracy)]]
    panel.errorbar([cost], [accuracy], yerr=bars, fmt=marker, ms=7, capsize=3, label=name)
front = pareto(points)
panel.plot([p[1] for p in front], [p[2] for p in front], color="0.6", lw=1, zorder=0)
panel.set(xscale="log", xlabel="MFLOPs per problem (paper's convention)", ylabel="accuracy (bars: 95 %)")
panel.legend(fontsize=8)
panel.grid(alpha=0.25, which="both")
plt.show()

# %% [markdown]
# ## Your own problems
#
# A JSONL file with questions and answers is a task. The same methods, the same report.

# %%
import json
from pathlib import Path

rows = [
    {
        "question": "Mia has 45 apples. Then she buys 12 more. Next she sells 9. How many apples does Mia have now?",
        "answer": "48",
    },
    {
        "question": "Zoe has 30 shells. Later she loses 14. Then she finds 5. How many shells does Zoe have now?",
        "answer": "21",
    },
]
Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
task = {"kind": "dataset", "path": "mine.jsonl", "system": ""}  # these models know no system prompt
own = evaluate(RSDConfig(), task, ["rsd", "draft"], n=None, seed=0)
print({name: method.accuracy for name, method in own.methods.items()})

# %% [markdown]
# ## What next
#
# - `rsd eval --n 1000 --journal run.jsonl --plot figure.png` is the same from a shell, and resumes after an
#   interruption.
# - `--recipe paper-math-7b` is the paper's evaluation, with your models instead.
