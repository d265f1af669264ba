"""The server as an application of Ray Serve, with replicas scaled by load."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

from rsd_core import ConfigurationError, MissingDependency

with warnings.catch_warnings():  # Ray 2.60 uses pydantic features that are deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    try:
        from ray import serve
    except ImportError as missing:  # of Ray's own modules or their dependencies
        raise MissingDependency("ray[serve]", "ray,serve", "RSD on Ray Serve") from missing

from rsd_integrations.ray.actors import Actors
from rsd_integrations.serve import ServeConfig, create_app

NAME = "RSD"
"""The deployment's name, for options in a Ray Serve config file."""
REPLICAS = 8
"""Maximum number of replicas, unless the file says otherwise."""
BUSY = 0.8
"""Fraction of a replica's concurrent answers above which another one is started."""


def build_app(args: Mapping[str, Any]) -> serve.Application:
    """The application, for `import_path` in a Ray Serve config file, or for `serve.run`.

    Every replica builds its decoders from the configuration, loads in-process models, and accepts as many requests as
    its queue holds. Options for the deployment `RSD` in a file override those chosen here.

    Args:
        args: The data of `rsd serve --config`: `models` by name, or a single configuration; empty for the embedded
            family. In addition `key_env`, the environment variable in the replicas with the accepted client keys,
            separated by spaces.

    Raises:
        ConfigurationError: The configuration is wrong; raised before anything is loaded.
    """
    data = dict(args)
    variable = data.pop("key_env", None)
    config = ServeConfig.parse(data) if data else ServeConfig.embedded()
    sizes = [Actors().fitted(one, _nodes()) for one in config.models.values()]
    told = config.model_dump(mode="json")

    def app() -> Any:  # called in each replica: what an app holds, locks and models, cannot travel
        return create_app(ServeConfig.parse(told), keys=_keys(variable))

    busy = max(1.0, BUSY * config.concurrency)
    deployment: Any = serve.deployment(serve.ingress(app)())
    made: serve.Application = deployment.options(
        name=NAME,
        max_ongoing_requests=config.concurrency + config.queue + 1,  # beyond that it refuses itself, as OpenAI does
        graceful_shutdown_timeout_s=config.drain,
        autoscaling_config={"min_replicas": 1, "max_replicas": REPLICAS, "target_ongoing_requests": busy},
        ray_actor_options={
            "num_cpus": max([size.num_cpus or 0 for size in sizes], default=1),
            "num_gpus": max([size.num_gpus or 0 for size in sizes], default=0),
        },
    ).bind()
    return made


def _keys(variable: str | None) -> list[str]:
    """The keys in an environment variable.

    Raises:
        ConfigurationError: It is empty.
    """
    if variable is None:
        return []
    if not (keys := os.environ.get(variable, "").split()):
        raise ConfigurationError(f"key_env: the environment variable {variable} is empty in this replica; set it there")
    return keys


def _nodes() -> list[Mapping[str, float]]:
    import ray

    from rsd_integrations.ray.cluster import nodes

    return nodes() if ray.is_initialized() else []
