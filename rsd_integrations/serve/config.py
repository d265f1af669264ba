"""The server's configuration as data: decoders by name, and how many requests at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, field_validator

from rsd_core import ConfigurationError, RSDConfig, parse_method
from rsd_core.data import Data, explain

NAME = "rsd"
"""The default model name."""
_FURTHER = {"draft": "The drafter alone, for comparison.", "target": "The target alone, for comparison."}


class ServeConfig(Data):
    """The decoders to serve, by the name that clients send as `model`, and the server's limits."""

    models: dict[Annotated[str, Field(min_length=1)], RSDConfig] = Field(default_factory=dict)
    concurrency: Annotated[int, Field(ge=1)] = 64
    """Answers decoded at once; a request for n answers takes n slots."""
    queue: Annotated[int, Field(ge=0)] = 256
    """Answers that may wait for a slot; further requests get status 429, to retry later."""
    max_body: Annotated[int, Field(ge=1024)] = 8 * 2**20
    """Maximum bytes of a request's body."""
    keep_alive: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 15.0
    """Seconds of silence after which a stream sends a comment, so that proxies keep it open."""
    drain: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    """Seconds for requests in flight to finish at shutdown; what is written by then is sent."""

    @field_validator("models")
    @classmethod
    def _printable(cls, models: dict[str, RSDConfig]) -> dict[str, RSDConfig]:
        for name in models:
            if not name.isprintable() or name != name.strip():
                raise ValueError(f"{name!r} is not a valid model name: use printable characters, without spaces around")
        return models

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """Check data from a file: `models` by name, or a single configuration, whose model is called `rsd`.

        Raises:
            ConfigurationError: Everything that is wrong, each with its location, its value and what is allowed.
        """
        if "models" not in data:
            return cls(models={NAME: RSDConfig.parse(dict(data))})
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigurationError(f"invalid configuration: {explain(error)}") from error

    @classmethod
    def embedded(cls) -> Self:
        """The embedded family: RSD, and its drafter and target alone for comparison."""
        alone = {name: RSDConfig(method=parse_method(name)) for name in _FURTHER}
        return cls(models={NAME: RSDConfig(), **alone})
