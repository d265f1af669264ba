# %% [markdown]
# # A plugin package
#
# Learn to publish your own verifier (or drafter, or target) and policy as a package: once it is installed, their names
# work everywhere, on the command line, in YAML and in every adapter.
#
# The plugin is a verifier that prefers short steps, and a policy that allows long ones at the beginning. It is real: we
# write the package, install it into a folder and load it from a new process.
#
# ## Two files

# %%
from pathlib import Path

package = Path("rsd-brevity")
package.mkdir()
metadata = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "rsd-brevity"
version = "0.1"
dependencies = ["rsd-decoding"]

[project.entry-points."rsd.backends"]
brevity = "rsd_brevity:load"

[project.entry-points."rsd.policies"]
patient = "rsd_brevity:Patient"

[tool.setuptools]
py-modules = ["rsd_brevity"]
"""
module = '''\
"""A verifier that wants short steps, and a policy that waits before it listens."""

from collections.abc import Sequence
from typing import Literal

from rsd_core import Decision, Path, RequestView, Scores, SpecError, Step, Usage, Verifier, WeightingPolicy


class Brevity(Verifier):
    """1 for an empty step, falling to 0 at `limit` words."""

    flops_per_token = 0.0

    def __init__(self, limit: int) -> None:
        self.name, self.limit = f"brevity:{limit}", limit

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        rewards = (max(0.0, 1 - len(step.text.split()) / self.limit) for step in steps)
        return Scores(tuple(rewards), Usage())


def load(rest: str, scale: float = 1.0) -> Brevity:
    """What `brevity:20` or `brevity,scale=2:20` names."""
    if not rest.isdigit() or not int(rest):
        raise SpecError(f"brevity:{rest}: say after how many words a step is too long, such as brevity:20")
    return Brevity(round(int(rest) * scale))


class Patient(WeightingPolicy):
    """A threshold that holds after the first steps: `patient:0.5,2`."""

    kind: Literal["patient"] = "patient"  # the name of the entry point
    delta: float = 0.7
    first: int = 1

    def weight(self, reward: float) -> float:
        return float(reward >= self.delta)

    def decide(self, step: Step, reward: float, request: RequestView) -> Decision:
        return "accept" if request.index < self.first or reward >= self.delta else "target"
'''
for name, text in {"pyproject.toml": metadata, "rsd_brevity.py": module}.items():
    (package / name).write_text(text)

# %% [markdown]
# All it needs is two entry points. In the group `rsd.backends`, the name is the kind, and the object is a function from
# the rest of the spec, and options, to a model; in `rsd.policies` it is the class.
#
# ## Install
#
# Here into a separate folder; everyone else runs `pip install rsd-brevity`.

# %%
import subprocess
import sys

flags = "--quiet --no-index --no-deps --no-build-isolation --disable-pip-version-check --root-user-action=ignore"
pip = [sys.executable, "-m", "pip", "install", *flags.split(), "--target", "plugins", f"./{package}"]
subprocess.run(pip, capture_output=True, check=True)
print(sorted(path.name for path in Path("plugins").iterdir() if path.name[0] != "_"))

# %% [markdown]
# ## Use
#
# From a new process that finds the folder. The kind is listed, loads with its options, and judges a run on the command
# line.

# %%
import os
import shlex

plain = {name: value for name, value in os.environ.items() if "COLOR" not in name}
surroundings = plain | {"PYTHONPATH": os.pathsep.join(filter(None, ["plugins", os.environ.get("PYTHONPATH")]))}


def run(command: str) -> str:
    words = [sys.executable, *shlex.split(command)]
    done = subprocess.run(words, env=surroundings, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()


code = "from rsd_core import backends, load; print(backends()['brevity'].module, load('brevity,scale=2:20'))"
print(run(f'-c "{code}"'))

# %%
models = "--draft scripted:draft --target scripted:target --verifier brevity:20 --policy binary_step:0.5"
shown = run(f"-m rsd_integrations.cli run 'How many seats?' {models}")  # `rsd run …` in a shell
print("\n".join(line.rstrip() for line in shown.splitlines()[:8]))

# %% [markdown]
# So does the policy, in front of others and in configurations as well:

# %%
code = (
    "from rsd_core import parse_policy, RSDConfig; policy = parse_policy('retry:2/patient:0.5'); print(policy.then);"
    "print(RSDConfig.parse({'verifier': 'brevity:20', 'policy': policy.model_dump()}).policy == policy)"
)
print(run(f'-c "{code}"'))

# %% [markdown]
# Mistakes are reported as for built-in kinds:

# %%
print(run("-m rsd_integrations.cli run q --verifier brevity:soon"))
print(run("-m rsd_integrations.cli run q --policy pattient:0.5"))

# %% [markdown]
# ## Test it
#
# The scripted models of `rsd_core.testing` stand in for everything else.

# %%
sys.path.insert(0, "plugins")
from rsd_brevity import Brevity

from rsd_core import BinaryStep, RewardGuidedDecoder
from rsd_core.testing import ScriptedDrafter, ScriptedTarget

decoder = RewardGuidedDecoder(
    drafter=ScriptedDrafter(["This step goes on and on and says nothing at all.\n\n", "\\boxed{4}"]),
    verifier=Brevity(10),
    target=ScriptedTarget(["2+2=4.\n\n"]),
    policy=BinaryStep(delta=0.5),
)
result = decoder.run("What is 2+2?")
assert [step.author for step in result.steps] == ["target", "draft"]
print(result.text)

# %% [markdown]
# ## What next
#
# - A drafter or a target is the same with `generate` instead of `score`; report your work in the `Usage` you return.
# - [A rule as verifier](08_rule_verifier.ipynb)
