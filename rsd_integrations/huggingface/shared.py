"""A verifier that shares the body of a generator: with one forward pass and one cache, a score only costs a head.

The head reads the body's hidden state at the last token of a step. The generator would have to run that token next
anyway, and finds it cached, with the body's output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path as Folder
from typing import Any

from safetensors.torch import load_file
from torch import nn

from rsd_core import ConfigurationError, Path, Scores, Step, Verifier, VerifierError
from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.generator import HuggingFaceGenerator, load_generator
from rsd_integrations.huggingface.heads import RewardHead, linear
from rsd_integrations.inprocess.checks import check_rewards, check_scored
from rsd_integrations.inprocess.engine import run
from rsd_integrations.inprocess.marks import Marks
from rsd_integrations.inprocess.score_call import ScoreCall
from rsd_integrations.loaded_models import Resident
from rsd_integrations.prm_formats import Layout

HEAD = "step_head.safetensors"
"""Linear layers `0`, `2`, … of the head, with ReLU between them, stored next to the language model's weights."""


class SharedVerifier(Resident, Verifier):
    """A reward head on a language model's body.

    If the same checkpoint is drafter or target, weights, forward passes and cache are shared. So it reads the same
    text, including markers of thoughts, if the model knows them.
    """

    def __init__(self, generator: HuggingFaceGenerator, head: RewardHead, name: str) -> None:
        self.name = name
        self.head = head
        self.runner, self.vocabulary, self.context = generator.runner, generator.vocabulary, generator.context
        self._marks = Marks(generator.vocabulary)
        self.dtype = generator.dtype
        self.flops_per_token = loading.flops_of(generator.runner.model) + loading.flops_per_token(head)

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Probability that each candidate is correct, given the path.

        Raises:
            PromptError: The prompt alone fills the model's context.
            VerifierError: A step is only a marker, path and step exceed the context, or the score is not a number.
        """
        read, _ = self._marks.after(path, steps)
        if not all(read.own):
            raise VerifierError(f"{self.name}: a step has no token to judge")
        check_scored(read.prompt, len(read.prefix) + max(map(len, read.feeds)), self.context, self.name)
        layouts = [Layout(ids, read=(len(ids) - 1,)) for ids in read.feeds]
        call = ScoreCall(path, self.runner.cache, read.prefix, read.prompt, layouts, self.head.rewards)
        return check_rewards(await run(self.runner, call), self.name)


def load_shared(
    model: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    cache_bytes: float | None = None,
    template: Mapping[str, Any] | None = None,
) -> SharedVerifier:
    """Load the reward head of a merged checkpoint, written by `rsd merge`, with the body that it shares.

    Args:
        model: Hub id or folder.
        dtype: Dtype of the body, as for `load_generator`; the head is always in fp32.
        device: Device in torch's notation; by default a GPU if there is one.
        cache_bytes: Memory for keys and values; by default an eighth of the device's memory.
        template: Chat template arguments; the same as for the generator that shares the cache.

    Raises:
        ConfigurationError: There is no such checkpoint, it has no reward head, or its chat template does not use an
            argument.
    """
    folder = loading.find(model)
    file = folder / HEAD
    if not file.exists():
        raise ConfigurationError(f"{model} holds no {HEAD}; `rsd merge` makes a checkpoint that does")
    generator = load_generator(model, dtype=dtype, device=device, cache_bytes=cache_bytes, template=template)
    return SharedVerifier(generator, read_head(file).to(generator.model.device), model)


def read_head(file: Folder) -> RewardHead:
    """Read a head from its file."""
    tensors = load_file(file)
    layers: list[nn.Module] = []
    for index in sorted(int(name.removesuffix(".weight")) for name in tensors if name.endswith(".weight")):
        layers += [linear(tensors[f"{index}.weight"].float(), tensors[f"{index}.bias"].float()), nn.ReLU()]
    return RewardHead(nn.Sequential(*layers[:-1])).eval()
