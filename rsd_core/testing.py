r"""Scripted models: public fakes for trying a pipeline, a policy or an adapter without any model.

```python
from rsd_core import RewardGuidedDecoder

decoder = RewardGuidedDecoder(
    drafter=ScriptedDrafter(["2+2=5.\n\n", "The answer is \\boxed{4}."]),
    verifier=ScriptedVerifier([0.1, 0.9]),
    target=ScriptedTarget(["2+2=4.\n\n"]),
)
assert [step.author for step in decoder.run("What is 2+2?").steps] == ["target", "draft"]
```
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from rsd_core.errors import SpecError
from rsd_core.interfaces import Drafter, Generation, Scores, StepRequest, Target, Verifier
from rsd_core.model import Usage
from rsd_core.paths import Path, Prompt, Step
from rsd_core.thoughts.markers import Thinking

StepScript = Sequence[str | Exception] | Callable[[Path, random.Random], str | Exception]
RewardScript = Sequence[float | Exception | None] | Callable[[Path, Step], float | Exception | None]


_counted: WeakKeyDictionary[Path, tuple[int, bool]] = WeakKeyDictionary()
"""By path: its words, and whether its text ends inside one that the next step may continue."""


def _words(path: Path) -> int:
    """Words of the prompt's last message and of the answer so far, reading each step only once."""
    new: list[Path] = []
    for node in path.up():
        if node in _counted:
            break
        new.append(node)
    for node in reversed(new):
        if node.parent is None or node.step is None:
            _counted[node] = len(node.prompt[-1].content.split()), False
            continue
        (count, inside), text = _counted[node.parent], node.step.text
        if text:
            straddles = inside and not text[0].isspace()
            count, inside = count + len(text.split()) - straddles, not text[-1].isspace()
        _counted[node] = count, inside
    return _counted[path][0]


class _Scripted:
    """Plays a script of steps: a list by position in the answer, or a function of path and random generator.

    A step that neither ends with the request's delimiter nor closes a thought ends the answer. The last entry of a list
    is repeated, an exception is raised. Each word counts as a token, and so does the end of the answer.
    """

    def __init__(
        self,
        script: StepScript,
        *,
        delay: float = 0.0,
        flops_per_token: float | None = 2.0,
        thinking: Thinking | None = None,
    ) -> None:
        self.script = script
        self._thinking = thinking
        self.delay = delay
        self.flops_per_token = flops_per_token
        self.calls: list[Path] = []
        """The paths of all calls so far."""

    def thinking(self, prompt: Prompt) -> Thinking | None:  # noqa: ARG002
        """The given value."""
        return self._thinking

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        """Play the entry for this position, once per seed."""
        self.calls.append(path)
        if self.delay:
            await asyncio.sleep(self.delay)
        steps = tuple(self._step(path, request, seed) for seed in request.seeds)
        prefix = _words(path)
        generated = sum(step.size for step in steps)
        return Generation(steps, Usage(prefix=prefix, computed=prefix + generated, generated=generated))

    def _step(self, path: Path, request: StepRequest, seed: int) -> Step:
        if callable(self.script):
            entry = self.script(path, random.Random(seed))
        elif self.script:
            entry = self.script[min(path.depth, len(self.script) - 1)]
        else:
            entry = ""
        if isinstance(entry, Exception):
            raise copy.copy(entry)  # an error carries what its own call had done
        words = len(entry.split())
        closes = bool(request.close) and request.close in entry
        if isinstance(request.delimiter, str):
            ended = not (closes or entry.endswith(request.delimiter))
        else:
            ended = request.splitter is None or request.splitter.end(entry) is None
        if words + ended > request.max_tokens:
            return Step(" ".join(entry.split()[: request.max_tokens]), "length", size=request.max_tokens)
        return Step(entry, "end" if ended else "delimiter", size=words + ended)


class ScriptedDrafter(_Scripted, Drafter):
    """A drafter that plays a script."""

    name = "scripted drafter"


class ScriptedTarget(_Scripted, Target):
    """A target that plays a script."""

    name = "scripted target"


class ScriptedVerifier(Verifier):
    """A verifier that plays a script: a list of rewards by position, or a function of the path and the step.

    None abstains.
    """

    name = "scripted verifier"

    def __init__(self, script: RewardScript, *, delay: float = 0.0, flops_per_token: float | None = 2.0) -> None:
        self.script = script
        self.delay = delay
        self.flops_per_token = flops_per_token
        self.calls: list[Path] = []

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Play the entry for this position, for each candidate."""
        self.calls.append(path)
        if self.delay:
            await asyncio.sleep(self.delay)
        rewards: list[float | None] = []
        for step in steps:
            if callable(self.script):
                entry = self.script(path, step)
            else:
                entry = self.script[min(path.depth, len(self.script) - 1)]
            if isinstance(entry, Exception):
                raise copy.copy(entry)  # an error carries what its own call had done
            rewards.append(entry)
        size = sum(step.size for step in steps)
        return Scores(tuple(rewards), Usage(prefix=path.depth, computed=size, scored=size))


def load(name: str, **options: Any) -> ScriptedDrafter | ScriptedTarget | ScriptedVerifier:
    """The scripted models behind `scripted:` specs: a drafter makes one mistake, and a verifier catches it."""
    right = [
        "There are 3 rows of 4 seats: 3*4=12.\n\n",
        "Two seats are taken: 12-2=10.\n\n",
        "The answer is \\boxed{10}.",
    ]
    slip = [right[0], "Two seats are taken: 12-2=9.\n\n", right[2]]
    if name == "draft":
        return ScriptedDrafter(slip, **options)
    if name == "target":
        return ScriptedTarget(right, **options)
    if name == "verifier":
        return ScriptedVerifier(lambda _path, step: 0.1 if "=9" in step.text else 0.95, **options)
    raise SpecError(f"scripted:{name} is unknown; there are scripted:draft, scripted:target and scripted:verifier")
