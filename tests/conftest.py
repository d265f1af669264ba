"""Models shared by the tests: the embedded family, loaded once, and tiny checkpoints made on the spot."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

settings.register_profile("rsd", deadline=None)  # a busy machine is not the code's fault
settings.load_profile("rsd")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for the network

if TYPE_CHECKING:
    from rsd_core import RewardGuidedDecoder
    from rsd_integrations.huggingface import HuggingFaceGenerator, HuggingFaceVerifier


class ByFile(LoadFileScheduling):  # type: ignore[misc]
    """Of processes that share the tests, one takes a whole file, whose tests share models, and one takes all of Ray."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/ray" if nodeid.startswith("tests/ray/") else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Models this small gain nothing from more threads, and lose a lot on a busy machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test's commands add to loggers, which would print in later tests."""
    for package in ("rsd_core", "rsd_integrations"):
        monkeypatch.setattr(logging.getLogger(package), "handlers", [])


@pytest.fixture(autouse=True)
def every_token_is_told(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In every test that runs models: the tokens that calls report are those that a hook saw go through the model.

    Of models of torch that is a hook on their embeddings; of GGUF models it counts what llama.cpp was given to decode.
    No forward pass holds padding, so the sums agree to the token; a call that shared its model with no other agrees by
    itself, also when it was cut short.
    """
    from rsd_core import StepRequest, Usage
    from rsd_core.model import usage_of
    from rsd_integrations.huggingface import (
        HuggingFaceGenerator,
        HuggingFaceLikelihood,
        HuggingFaceVerifier,
        SharedVerifier,
    )
    from rsd_integrations.inprocess.reward_verifier import RewardVerifier
    from rsd_integrations.llamacpp import LlamaCppGenerator, LlamaCppLikelihood

    meters: list[Meter] = []
    by_module: WeakKeyDictionary[object, Meter] = WeakKeyDictionary()  # a test may look whether its model is freed
    wrong: list[str] = []
    making = threading.Lock()

    def meter_of(name: str, module: object) -> Meter:
        with making:  # a second meter would be a second hook, left on the model
            if module not in by_module:
                by_module[module] = Meter(name, module)
                meters.append(by_module[module])
            return by_module[module]

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        async def call(self: Any, *args: Any, **options: Any) -> Any:
            meter = meter_of(self.name, _counted(self.runner))
            speculation = next((one.speculation for one in args if isinstance(one, StepRequest)), None)
            drafter: Any = None if speculation is None else speculation.drafter
            other = None if drafter is None else meter_of(drafter.name, _counted(drafter.runner))
            alone, before = meter.enter(), meter.seen
            if other is not None:
                other.enter()
            usage = Usage()
            try:
                made = await original(self, *args, **options)
                usage = made.usage
            except BaseException as error:
                usage = usage_of(error) or usage
                raise
            finally:
                own = sum([part.computed for model, part in usage.parts if model is drafter])
                meter.told += usage.computed - own
                seen = meter.seen - before
                if meter.leave(alone) and usage.computed - own != seen and other is not meter:
                    wrong.append(f"{self.name}: told {usage.computed - own}, computed {seen}")
                if other is not None:
                    other.told += own
                    other.leave(0)
            return made

        return call

    for kind, method in (
        (HuggingFaceGenerator, "log_likelihoods"),
        (HuggingFaceGenerator, "generate"),
        (HuggingFaceGenerator, "next_word"),
        (HuggingFaceGenerator, "first_token_entropy"),
        (HuggingFaceVerifier, "score"),
        (HuggingFaceLikelihood, "score"),
        (SharedVerifier, "score"),
        (LlamaCppGenerator, "log_likelihoods"),
        (LlamaCppGenerator, "generate"),
        (LlamaCppGenerator, "next_word"),
        (LlamaCppGenerator, "first_token_entropy"),
        (LlamaCppLikelihood, "score"),
        (RewardVerifier, "score"),
    ):
        monkeypatch.setattr(kind, method, watched(getattr(kind, method)))
    yield
    for meter in meters:
        meter.close()
    assert not wrong
    assert [(meter.name, meter.told) for meter in meters] == [(meter.name, meter.seen) for meter in meters]


def _counted(runner: Any) -> object:
    """What a runner's tokens go through: a module of torch, or a context of llama.cpp."""
    from rsd_integrations.llamacpp.runner import LlamaRunner

    return runner.store.context if isinstance(runner, LlamaRunner) else runner.model


class Meter:
    """Tokens that went through a model during a test, as told and as seen, and how many calls are in flight."""

    def __init__(self, name: str, module: object) -> None:
        self.name, self.told = name, 0
        self._counter = Counter()
        self._counter.watch("model", module)
        self._inside = 0
        self._crowd = 0

    @property
    def seen(self) -> int:
        return self._counter.tokens["model"]

    def enter(self) -> int:
        """Number of calls so far, and of the one that begins."""
        self._inside += 1
        self._crowd += 1
        return self._crowd if self._inside == 1 else 0

    def leave(self, entered: int) -> bool:
        """Whether no other call came near one that ends."""
        self._inside -= 1
        return self._crowd == entered

    def close(self) -> None:
        self._counter.close()


@pytest.fixture(scope="session")
def draft() -> HuggingFaceGenerator:
    from rsd_integrations.embedded.models import FOLDER
    from rsd_integrations.huggingface import load_generator

    return load_generator(str(FOLDER / "draft"))


@pytest.fixture(scope="session")
def target() -> HuggingFaceGenerator:
    from rsd_integrations.embedded.models import FOLDER
    from rsd_integrations.huggingface import load_generator

    return load_generator(str(FOLDER / "target"))


@pytest.fixture(scope="session")
def verifier() -> HuggingFaceVerifier:
    from rsd_integrations.embedded.models import FOLDER
    from rsd_integrations.huggingface import load_verifier

    return load_verifier(str(FOLDER / "prm"))


@pytest.fixture(scope="session")
def family() -> RewardGuidedDecoder:
    """The embedded models."""
    from rsd_core import RewardGuidedDecoder, RSDConfig

    decoder = RSDConfig().build()
    assert isinstance(decoder, RewardGuidedDecoder)
    return decoder


@pytest.fixture(scope="session")
def questions() -> list[str]:
    """Held-out problems."""
    import itertools

    from rsd_integrations.embedded.task import problems

    return [problem.question for problem in itertools.islice(problems("test", 7), 200)]


@pytest.fixture
def counted() -> Iterator[Counter]:
    """Counts the tokens that run through models, by hooks on their embeddings."""
    counter = Counter()
    yield counter
    counter.close()


class Counter:
    """Tokens fed to models, counted independently of the ledger."""

    def __init__(self) -> None:
        self.tokens: dict[str, int] = {}
        self._handles: list[object] = []

    def watch(self, role: str, module: object) -> None:
        self.tokens[role] = 0
        if hasattr(module, "decode_one"):
            self._handles.append(self._watch_context(role, module))
            return

        def hook(_module: object, args: tuple[object, ...], _out: object) -> None:
            self.tokens[role] += args[0].numel()  # type: ignore[attr-defined]

        embeddings: Any = module.get_input_embeddings()  # type: ignore[attr-defined]
        self._handles.append(embeddings.register_forward_hook(hook))

    def _watch_context(self, role: str, context: Any) -> Any:
        """Count what llama.cpp itself is given."""
        decode = context._decode

        def watched(address: Any, batch: Any) -> int:
            code: int = decode(address, batch)
            self.tokens[role] += batch.n_tokens if code == 0 else 0
            return code

        context._decode, alive = watched, ref(context)

        def remove() -> None:
            context = alive()
            if context is not None and context._decode is watched:
                context._decode = decode

        return SimpleNamespace(remove=remove)

    def close(self) -> None:
        for handle in reversed(self._handles):
            handle.remove()  # type: ignore[attr-defined]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A random two-layer model with the family's tokenizer."""
    from tests.huggingface.tiny import make_causal_lm

    return make_causal_lm(tmp_path / "tiny")
