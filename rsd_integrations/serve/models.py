"""The served decoders: loaded once, and adapted to each request."""

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
    """A named decoder.

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
            settings: The request's settings, by the names of `Settings`.
            limits: The request's limits; they tighten those of the model.
            policy: Overrides the model's.
            fields: Additional fields for its models (see `Generator.with_fields`).

        Raises:
            ApiError: It does not support them.
            ConfigurationError: They are invalid for it.
        """

    @property
    def context(self) -> int | None:
        """The smallest context of its models, in tokens; None if one is unknown."""
        contexts = [getattr(model, "context", None) for model in self.decoder({}).models]
        known = [context for context in contexts if isinstance(context, int)]
        return min(known) if known and len(known) == len(contexts) else None


class ReadyModel(ServedModel):
    """A given decoder object."""

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
            raise unsupported("rsd.policy", f"{self.name} is a given decoder with its own policy")
        if fields:
            raise unsupported(next(iter(fields)), f"{self.name} is a given decoder, whose models cannot be changed")
        return self._decoder.with_settings(_own(self._decoder.settings, settings, limits))


class ConfiguredModel(ServedModel):
    """A decoder as data.

    Args:
        name: What clients call `model`.
        config: Its configuration.
        loaded: The models of all of the server's decoders: a shared one is loaded once.
    """

    def __init__(self, name: str, config: RSDConfig, loaded: LoadedModels) -> None:
        super().__init__(name)
        self.config = config
        self._loaded = loaded
        self._own = LoadedModels()
        """Shared by the decoders of single requests: which roles have ever worked."""

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
        if policy is not None:  # its own policy's limits apply to another policy too
            own = own.model_copy(update={"limits": own.limits.tightened(self.config.policy.limits)})
        decoder = self.config.method.build(self._setup(own, policy, fields or {}))
        if policy is not None and getattr(decoder, "policy", None) is not policy:
            raise unsupported("rsd.policy", f"the method of {self.name} uses none, or has its own")
        return self._own.watched(decoder)

    def _setup(self, settings: Settings, policy: WeightingPolicy | None, fields: Mapping[str, Any]) -> Setup:
        own = self.config.setup()

        def load(model: Any) -> Any:
            model = self._loaded.get(model)
            return model.with_fields(fields) if fields and isinstance(model, Generator) else model

        policy = policy or own.policy
        return Setup(**own.given, policy=policy, settings=settings, load=load, thoughts=own.thoughts)  # type: ignore[arg-type]


def _own(base: Settings, settings: Mapping[str, Any], limits: Limits | None) -> Settings:
    """Settings with those of a request merged in."""
    updated = base.updated(**settings)
    return updated if limits is None else updated.model_copy(update={"limits": updated.limits.tightened(limits)})


class ServedModels:
    """All served models, by name.

    Args:
        configs: Decoders as data.
        decoders: Given decoder objects.

    Raises:
        ConfigurationError: There is no model, or two have the same name.
    """

    def __init__(self, configs: Mapping[str, RSDConfig], decoders: Mapping[str, Decoder]) -> None:
        if twice := configs.keys() & decoders.keys():
            raise ConfigurationError(f"the name {min(twice)!r} is used for two models; give each its own")
        if not configs and not decoders:
            raise ConfigurationError("there is no model to serve; add one under `models`")
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
        """The model with this name.

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
        """Load everything without blocking the event loop. Concurrent calls wait for the same work."""
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
