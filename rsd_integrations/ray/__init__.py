"""RSD on many machines: a stage for Ray Data, batches over a cluster, an app for Ray Serve."""

from rsd_core import MissingDependency

try:
    import ray.data  # noqa: F401
except ModuleNotFoundError as missing:
    raise MissingDependency("ray[data]", "ray", "Ray") from missing

from rsd_integrations.ray.actors import Actors
from rsd_integrations.ray.batch import run_journaled_on_ray
from rsd_integrations.ray.decoding import DecodeRows, decode
from rsd_integrations.ray.pool import DecoderPool

__all__ = ["Actors", "DecodeRows", "DecoderPool", "decode", "run_journaled_on_ray"]
