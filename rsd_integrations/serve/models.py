"""The decoders behind the names: loaded once, and adapted to each request."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from rsd_core import Decoder, Generator, Limits, RSDConfig, Settings, Setup, WeightingPolicy
from rsd_core.blocking import in_thread
from rsd_integrations.loaded_models import LoadedModels
from rsd_integrations.serve.config import ServeConfig
from rsd_integrations.serve.errors import ApiError


class ServedModel:
    """A decoder by its name.

    Args:
        name: What clients call `model`.
        config: What it is made of.
        loaded: The models of all decoders of the server: one that several of them name is loaded once.
    """

    def __init__(self, name: str, config: RSDConfig, loaded: LoadedModels) -> None:
        self.name, self.config = name, config
        self.created = int(time.time())
        self._loaded = loaded
        self._own = LoadedModels()
        """What decoders of single requests share: which roles ever worked."""

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
            limits: Of the request's own; they tighten those of the configuration.
            policy: In place of the configuration's.
            fields: What its models are asked for besides, see `Generator.with_fields`.

        Raises:
            ConfigurationError: The decoder or its models cannot work so.
        """
        base = self.config.settings.updated(**settings)
        setup = self._setup(base.model_copy(update={"limits": base.limits.tightened(limits)}), policy, fields or {})
        return self._own.watched(self.config.method.build(setup))

    def _setup(self, settings: Settings, policy: WeightingPolicy | None, fields: Mapping[str, Any]) -> Setup:
        own = self.config.setup()

        def load(model: Any) -> Any:
            model = self._loaded.get(model)
            return model.with_fields(fields) if fields and isinstance(model, Generator) else model

        policy = policy or own.policy
        return Setup(**own.given, policy=policy, settings=settings, load=load, thoughts=own.thoughts)  # type: ignore[arg-type]

    @property
    def context(self) -> int | None:
        """Tokens that the smallest of its models takes; None where one does not tell."""
        contexts = [getattr(model, "context", None) for model in self.decoder({}).models]
        known = [context for context in contexts if isinstance(context, int)]
        return min(known) if len(known) == len(contexts) else None


class ServedModels:
    """All of them, by name.

    Args:
        config: What is served.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._loaded = LoadedModels()
        self._models = {name: ServedModel(name, own, self._loaded) for name, own in config.models.items()}
        self.ready = False
        """Whether all models are loaded."""

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
        """Load everything without holding the event loop up."""
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
