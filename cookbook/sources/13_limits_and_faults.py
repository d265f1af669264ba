# %% [markdown]
# # Limits, faults and cancellation
#
# Learn what happens when something runs out or breaks: nothing that was generated is lost, and the result says what
# happened. The models here are scripted, because real models do not fail on demand.
#
# Each fault is also logged as a warning under `rsd_core`, which Python prints if logging is not set up. Here the
# results show them, so the log is discarded.

# %%
import logging

from rsd_core import BinaryStep, Limits, RewardGuidedDecoder, Settings
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier

logging.getLogger("rsd_core").addHandler(logging.NullHandler())
STEPS = ["One.\n\n", "Two.\n\n", "Three.\n\n", "So \\boxed{3}."]


def decoder(rewards=(0.9, 0.1, 0.1, 0.9), draft=STEPS, target=STEPS, **settings):
    return RewardGuidedDecoder(
        drafter=ScriptedDrafter(list(draft)),
        verifier=ScriptedVerifier(list(rewards)),
        target=ScriptedTarget(list(target)),
        policy=BinaryStep(delta=0.5),
        settings=Settings(**settings),
    )


def tell(result):
    authors = ", ".join(step.author for step in result.steps)
    print(f"{result.finish_reason}: {authors}; answer {result.answer}")
    for item in result.degradations:
        print("  noted:", item.kind, "at step", item.step, "-", item.message)


tell(decoder().run("Count to three."))

# %% [markdown]
# ## Limits
#
# A limit on the whole answer ends it where it is. A limit on the *target* only takes the target away: from then on
# drafts are kept, and each is noted.

# %%
tell(decoder(limits=Limits(max_steps=2)).run("Count to three."))
tell(decoder(limits=Limits(max_target_calls=1)).run("Count to three."))

# %% [markdown]
# ## Faults
#
# If the drafter fails, the target writes the step. If the verifier fails, `on_verifier_error` decides: the target
# writes, the draft is kept, or an error is raised. A failing target is retried; if it fails permanently, the error has
# everything that was written.

# %%
broken = ConnectionError("the server is away")
tell(decoder(draft=[STEPS[0], broken, STEPS[2], STEPS[3]]).run("Count to three."))
tell(decoder(rewards=(0.9, broken, 0.9, 0.9), on_verifier_error="accept").run("Count to three."))

# %%
from rsd_core import TargetError

try:
    decoder(target=[broken] * 4, target_retries=1).run("Count to three.")
except TargetError as error:
    print(error)
    print("kept:", repr(error.partial.text))

# %% [markdown]
# ## In a batch
#
# A failed request does not affect the others. The batch's error has all results.

# %%
from rsd_core import BatchError


def fails_on_nine(path, random):
    return broken if "nine" in path.prompt[-1].content else STEPS[path.depth]


batch = RewardGuidedDecoder(
    drafter=ScriptedDrafter(STEPS), verifier=ScriptedVerifier([0.1]), target=ScriptedTarget(fails_on_nine)
)
try:
    batch.run_many(["Count to three.", "Count to nine.", "Count to three again."])
except BatchError as error:
    print([result.finish_reason for result in error.results])

# %% [markdown]
# ## Cancel
#
# A button that ends a request from any thread. The text so far is kept.

# %%
from rsd_core import Cancellation, Finished, StepFinished

button = Cancellation()
for event in decoder().stream("Count to three.", cancel=button):
    if isinstance(event, StepFinished) and event.index == 1:
        button.cancel()
    if isinstance(event, Finished):
        tell(event.result)

# %% [markdown]
# ## In the drawing
#
# The trace shows the faults that were handled.

# %%
from rsd_integrations.display import show

show(decoder(rewards=(0.9, broken, 0.9, 0.9)).run("Count to three."))

# %% [markdown]
# ## What next
#
# - [Budgets](06_budgets_and_calibration.ipynb): limits that spend well instead of ending
# - [Three servers](11_three_servers.ipynb)
