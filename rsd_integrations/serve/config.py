"""What is served, as data: which decoders by which names, and how many requests at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, field_validator

from rsd_core import ConfigurationError, RSDConfig, parse_method
from rsd_core.data import Data, explain

NAME = "rsd"
"""The model of a configuration that names none."""
_FURTHER = {"draft": "The drafter alone, to compare with.", "target": "The target alone, to compare with."}


class ServeConfig(Data):
    """The decoders that are served, each by the name that clients call `model`, and the server's own limits."""

    models: dict[Annotated[str, Field(min_length=1)], RSDConfig] = Field(default_factory=dict)
    concurrency: Annotated[int, Field(ge=1)] = 64
    """Answers that are decoded at once; a request for n answers takes n places."""
    queue: Annotated[int, Field(ge=0)] = 256
    """Answers that may wait for a place; a request beyond them is told to come back later, by status 429."""
    max_body: Annotated[int, Field(ge=1024)] = 8 * 2**20
    """Bytes of a request's body at most."""
    keep_alive: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 15.0
    """Seconds of silence after which a stream is sent a comment, so that nobody in between takes it for dead."""
    drain: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    """Seconds that requests in flight are given when the server is told to end; what is written by then is sent."""

    @field_validator("models")
    @classmethod
    def _printable(cls, models: dict[str, RSDConfig]) -> dict[str, RSDConfig]:
        for name in models:
            if not name.isprintable() or name != name.strip():
                raise ValueError(f"{name!r} is no name for a model: it takes printable characters without space around")
        return models

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """Check data from a file: `models` by name, or one configuration by itself, whose model is called `rsd`.

        Raises:
            ConfigurationError: Everything that is wrong, each with its place, its value and what is allowed.
        """
        if "models" not in data:
            return cls(models={NAME: RSDConfig.parse(dict(data))})
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigurationError(f"invalid configuration: {explain(error)}") from error

    @classmethod
    def embedded(cls) -> Self:
        """The embedded family: RSD, and its drafter and target alone to compare with."""
        alone = {name: RSDConfig(method=parse_method(name)) for name in _FURTHER}
        return cls(models={NAME: RSDConfig(), **alone})
