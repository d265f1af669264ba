"""The decoders behind the names: loaded once, and adapted to each request."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from rsd_core import ConfigurationError, Decoder, Generator, Limits, RSDConfig, Settings, Setup, WeightingPolicy
from rsd_core.blocking import in_thread
from rsd_integrations.loaded_models import LoadedModels
from rsd_integrations.serve.errors import ApiError, unsupported


class ServedModel(ABC):
    """A decoder by its name.

    Args:
        name: What clients call `model`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.created = int(time.time())

    @property
    @abstractmethod
    def granularity(self) -> str:
        """`step` or `turn`."""

    @abstractmethod
    def decoder(
        self,
        settings: Mapping[str, Any],
        limits: Limits | None = None,
        policy: WeightingPolicy | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> Decoder:
        """The decoder of one request.

        Args:
            settings: Of the request's own, by the names of `Settings`.
            limits: Of the request's own; they tighten those of the model.
            policy: In place of the model's.
            fields: What its models are asked for besides, see `Generator.with_fields`.

        Raises:
            ApiError: It takes none of that.
            ConfigurationError: It cannot work so.
        """

    @property
    def context(self) -> int | None:
        """Tokens that the smallest of its models takes; None where one does not tell."""
        contexts = [getattr(model, "context", None) for model in self.decoder({}).models]
        known = [context for context in contexts if isinstance(context, int)]
        return min(known) if known and len(known) == len(contexts) else None


class ReadyModel(ServedModel):
    """A decoder that somebody made."""

    def __init__(self, name: str, decoder: Decoder) -> None:
        super().__init__(name)
        self._decoder = decoder

    @property
    def granularity(self) -> str:
        return self._decoder.settings.granularity

    def decoder(
        self,
        settings: Mapping[str, Any],
        limits: Limits | None = None,
        policy: WeightingPolicy | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> Decoder:
        if policy is not None:
            raise unsupported("rsd.policy", f"{self.name} is a ready decoder, which brings its own")
        if fields:
            raise unsupported(next(iter(fields)), f"{self.name} is a ready decoder, whose models are as they are")
        return self._decoder.with_settings(_own(self._decoder.settings, settings, limits))


class ConfiguredModel(ServedModel):
    """A decoder as data.

    Args:
        name: What clients call `model`.
        config: What it is made of.
        loaded: The models of all decoders of the server: one that several of them name is loaded once.
    """

    def __init__(self, name: str, config: RSDConfig, loaded: LoadedModels) -> None:
        super().__init__(name)
        self.config = config
        self._loaded = loaded
        self._own = LoadedModels()
        """What decoders of single requests share: which roles ever worked."""

    @property
    def granularity(self) -> str:
        return self.config.settings.granularity

    def decoder(
        self,
        settings: Mapping[str, Any],
        limits: Limits | None = None,
        policy: WeightingPolicy | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> Decoder:
        own = _own(self.config.settings, settings, limits)
        if policy is not None:  # what its own policy may spend holds for another one too
            own = own.model_copy(update={"limits": own.limits.tightened(self.config.policy.limits)})
        decoder = self.config.method.build(self._setup(own, policy, fields or {}))
        if policy is not None and getattr(decoder, "policy", None) is not policy:
            raise unsupported("rsd.policy", f"the method of {self.name} asks none, or brings its own")
        return self._own.watched(decoder)

    def _setup(self, settings: Settings, policy: WeightingPolicy | None, fields: Mapping[str, Any]) -> Setup:
        own = self.config.setup()

        def load(model: Any) -> Any:
            model = self._loaded.get(model)
            return model.with_fields(fields) if fields and isinstance(model, Generator) else model

        policy = policy or own.policy
        return Setup(**own.given, policy=policy, settings=settings, load=load, thoughts=own.thoughts)  # type: ignore[arg-type]


def _own(base: Settings, settings: Mapping[str, Any], limits: Limits | None) -> Settings:
    """Settings with those of a request in them."""
    updated = base.updated(**settings)
    return updated if limits is None else updated.model_copy(update={"limits": updated.limits.tightened(limits)})


class ServedModels:
    """All of them, by name.

    Args:
        configs: Decoders as data.
        decoders: Decoders that somebody made.

    Raises:
        ConfigurationError: There is none at all, or two have one name.
    """

    def __init__(self, configs: Mapping[str, RSDConfig], decoders: Mapping[str, Decoder]) -> None:
        if twice := configs.keys() & decoders.keys():
            raise ConfigurationError(f"the name {min(twice)!r} stands for two models; give each its own")
        if not configs and not decoders:
            raise ConfigurationError("there is no model to serve; name one under `models`")
        loaded = LoadedModels()
        self._models: dict[str, ServedModel] = {
            **{name: ConfiguredModel(name, config, loaded) for name, config in configs.items()},
            **{name: ReadyModel(name, decoder) for name, decoder in decoders.items()},
        }
        self.ready = False
        """Whether all models are loaded."""
        self._loading = asyncio.Lock()

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def get(self, name: str) -> ServedModel:
        """The model of a name.

        Raises:
            ApiError: There is none.
        """
        if name not in self._models:
            raise ApiError(
                404,
                f"there is no model {name!r:.200}; this server has {', '.join(self._models)}",
                param="model",
                code="model_not_found",
            )
        return self._models[name]

    async def load(self) -> None:
        """Load everything without holding the event loop up. Who comes meanwhile waits for the same work."""
        if self.ready:
            return
        async with self._loading:
            if not self.ready:
                await in_thread(lambda: [model.decoder({}) for model in self._models.values()])
                self.ready = True

    async def aclose(self) -> None:
        """Close all models."""
        if self.ready:
            models = {id(one): one for model in self._models.values() for one in model.decoder({}).models}
            for one in models.values():
                await one.aclose()
        self.ready = False
