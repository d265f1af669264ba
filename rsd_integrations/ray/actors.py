"""How many decoders run in a cluster, and the resources of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from rsd_core import ConfigurationError, RSDConfig
from rsd_core.data import Data, explain, from_text
from rsd_core.registry import options_of, parse_spec, parts_of

LOADING = ("huggingface", "llamacpp")
"""Extras whose models run in-process."""


class Actors(Data):
    """Decoders in separate processes, each built from the configuration where it runs.

    None means that the configuration decides. With in-process models, an actor takes one core, and one GPU if the
    cluster has any and one of its models would use it (transformers models do, except for the embedded ones and those
    with `device=cpu`), and there are as many as fit. With models behind servers, there is one per node, with one core;
    the servers see up to `count` times `concurrency` requests at once.
    """

    count: int | None = Field(None, ge=1)
    """How many."""
    max_count: int | None = Field(None, ge=1)
    """Maximum number if the cluster grows; None means `count`."""
    concurrency: int = Field(64, ge=1)
    """Concurrent requests in each."""
    num_cpus: float | None = Field(None, ge=0)
    """Cores of each; in-process models use as many threads, which Ray sets by `OMP_NUM_THREADS`."""
    num_gpus: float | None = Field(None, ge=0)
    """GPUs of each; a fraction shares one."""
    memory: float | None = Field(None, gt=0)
    """Bytes of its node's memory that each reserves in Ray's accounting; None reserves nothing."""

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.max_count is not None and self.max_count < (self.count or 1):
            raise ValueError(f"max_count={self.max_count} is below count={self.count}")
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `4`, or `count=4,num_gpus=1`.

        Raises:
            ConfigurationError: Names what is wrong, and what is allowed.
        """
        data = from_text(f"actors:{text}", {"actors": cls}, "actors")
        try:
            return cls.model_validate({name: value for name, value in data.items() if name != "kind"})
        except ValidationError as error:
            raise ConfigurationError(f"actors {text!r}: {explain(error)}") from error

    def fitted(self, config: RSDConfig, nodes: Iterable[Mapping[str, float]], *, spare_cpus: int = 0) -> Self:
        """A copy with a number for everything that the configuration decides.

        Args:
            config: The decoder's configuration.
            nodes: The resources of each node, as Ray names them.
            spare_cpus: Cores of the cluster left for others.
        """
        nodes = list(nodes)
        loaded = [spec for spec in specs_of(config) if parse_spec(spec)[0].extra in LOADING]
        needs_gpu = any(node.get("GPU") for node in nodes) and any(_may_use_gpu(spec) for spec in loaded)
        cpus = 1.0 if self.num_cpus is None else self.num_cpus
        gpus = float(needs_gpu) if self.num_gpus is None else self.num_gpus
        count = self.count
        if count is None and not loaded:
            count = sum(node.get("CPU", 0) >= max(cpus, 1) for node in nodes)
        elif count is None:
            needs = {"CPU": cpus, "GPU": gpus, "memory": self.memory or 0}
            count = sum(_fit(node, needs) for node in nodes)
            if cpus:
                count = min(count, int((sum(node.get("CPU", 0) for node in nodes) - spare_cpus) // cpus))
        count = max(1, min(count, self.max_count or count))
        return self.model_copy(update={"count": count, "num_cpus": cpus, "num_gpus": gpus})

    @property
    def options(self) -> dict[str, Any]:
        """Ray's options for each."""
        told = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "memory": self.memory}
        return {name: value for name, value in told.items() if value is not None}


def specs_of(config: RSDConfig) -> Iterator[str]:
    """The specs of the models that a configuration loads, nested ones included."""
    setup = config.setup()
    models = [*config.method.models(setup), *setup.thoughts.values()]
    todo = [model for model in models if isinstance(model, str)]
    for spec in todo:  # the list grows during iteration
        backend, rest = parse_spec(spec)
        if backend.nested:
            todo += parts_of(rest)
        yield spec


def _may_use_gpu(spec: str) -> bool:
    """Whether an in-process model uses a GPU by default if there is one."""
    backend, _ = parse_spec(spec)
    return backend.extra == "huggingface" and backend.kind != "embedded" and options_of(spec).get("device") != "cpu"


def _fit(node: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """How many times the requirements fit on a node."""
    asked = {name: need for name, need in needs.items() if need}
    return min((int(node.get(name, 0) // need) for name, need in asked.items()), default=1)
