# %% [markdown]
# # Thinking models
#
# Learn how RSD works with models that think before they answer: what a result holds, how to limit a thought, and how
# one model can think for the other. The two models ship with the package: they write a short thought between `<think>`
# and `</think>`, then the answer.

# %%
from rsd_core import BinaryStep, Limits, RewardGuidedDecoder, Settings, load

drafter, target = load("embedded:thinking-draft"), load("embedded:thinking-target")
verifier = load("embedded:verifier")
decoder = RewardGuidedDecoder(drafter=drafter, verifier=verifier, target=target, policy=BinaryStep(delta=0.7))
question = (
    "Max has 35 kites. Next he finds 57. After that he loses 9. Later he gets 42 as a gift. Then he loses 31. After that "
    "he gets 52 as a gift. Then he loses 22. How many kites does Max have now?"
)
result = decoder.run(question)
print(result.answer, "·", result.finish_reason)
print("text:", repr(result.text))

# %% [markdown]
# `text` is the answer alone, `thought` the thought, and `raw_text` everything as it was written, including markers.
# Every step knows which part it belongs to.

# %%
print(result.thought)
print([step.kind for step in result.steps])
print(repr(result.raw_text[-60:]))

# %% [markdown]
# ## The trace
#
# A thought is folded. Unfold it to see its steps, their rewards, and the discarded drafts.

# %%
from rsd_integrations.display import show

show(result, decoder)

# %%
print(show(result, decoder, thoughts=True))

# %% [markdown]
# ## A thought that is too long
#
# At `max_thought_tokens` the thought is closed in the model's own way, and the answer is written. A limit on the whole
# response ends it where it is: then there is no answer, and the result says so.

# %%
import logging

logging.getLogger("rsd_core").addHandler(logging.NullHandler())  # the results report it too


def bounded(**limits):
    return RewardGuidedDecoder(
        drafter=drafter, verifier=verifier, target=target, settings=Settings(limits=Limits(**limits))
    ).run(question)


for limits in ({"max_thought_tokens": 60}, {"max_tokens": 60}):
    cut = bounded(**limits)
    print(limits, cut.finish_reason, cut.answer, [item.kind for item in cut.degradations])
    print([step.author for step in cut.steps])

# %% [markdown]
# ## Thinking switched off
#
# Arguments of a chat template are options of a spec, `template.NAME=VALUE`, or an argument of `load`. Both models need
# the same arguments.

# %%
from rsd_core import ConfigurationError

quick = load("embedded,template.enable_thinking=false:thinking-target")
short = RewardGuidedDecoder(
    drafter=load("embedded:thinking-draft", template={"enable_thinking": False}), verifier=verifier, target=quick
)
print(repr(short.run(question).thought), short.run(question).answer)
try:
    RewardGuidedDecoder(drafter=drafter, verifier=verifier, target=quick).run(question)
except ConfigurationError as error:
    print(error)

# %% [markdown]
# ## Who thinks
#
# Methods are recipes for the same models. Here the target writes only the first two steps, or the whole thought, or the
# answer; no verifier is used. The mistake is in the third step of the thought, so only a recipe in which the target
# writes that step gets it right.

# %%
from rsd_core import RSDConfig

models = {"drafter": "embedded:thinking-draft", "target": "embedded:thinking-target"}
for method in ("first_steps:2", "target_thinks", "drafter_thinks", "target", "draft"):
    with RSDConfig(**models, method=method).build() as recipe:
        one = recipe.run(question)
    print(
        f"{method:14} {one.answer:4} {one.target_share:4.0%} by the target, {one.ledger.total.flops / 1e6:7.1f} MFLOPs"
    )

# %% [markdown]
# ## A separate policy for thoughts
#
# A mistake in a thought is often noticed later, one in the answer never. So thoughts may have their own threshold,
# verifier or models.

# %%
from rsd_core import Roles

mild = RewardGuidedDecoder(
    drafter=drafter,
    verifier=verifier,
    target=target,
    policy=BinaryStep(delta=0.9),
    thoughts=Roles(policy=BinaryStep(delta=0.05)),
)
print([(step.kind, step.author) for step in mild.run(question).steps])

# %% [markdown]
# ## What next
#
# - [Recipes](recipes/README.md): a file for each way of sharing a thought
# - [Limits and faults](13_limits_and_faults.ipynb)
# - `rsd run --draft embedded:thinking-draft --target embedded:thinking-target --thoughts` is this notebook as one
#   command
