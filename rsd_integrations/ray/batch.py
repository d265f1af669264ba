"""`rsd batch` over a cluster: the same results file and journal, with requests answered by actors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rsd_core import RSDConfig
from rsd_integrations.batch import Problem, Progress, run_journaled
from rsd_integrations.ray.actors import Actors
from rsd_integrations.ray.cluster import connected
from rsd_integrations.ray.pool import DecoderPool


def run_journaled_on_ray(
    config: RSDConfig,
    problems: Sequence[Problem],
    out: Path,
    *,
    address: str | None = None,
    actors: Actors | None = None,
    retry_failed: bool = True,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Decode problems on a cluster, writing each result as a line to a local file as it arrives.

    The file is that of `run_journaled`: either can resume what the other began.

    Args:
        config: The configuration from which each actor builds its decoder.
        problems: See `run_journaled`.
        out: The local file; only this process writes it.
        address: The cluster (see `connected`).
        actors: The number of decoders, and the resources of each.
        retry_failed: See `run_journaled`.
        progress: See `run_journaled`.

    Raises:
        RSDError: No cluster can be reached; also whatever `run_journaled` raises.
    """
    with connected(address):
        pool = DecoderPool(config, actors)
        return run_journaled(
            config,
            problems,
            out,
            concurrency=pool.places,
            retry_failed=retry_failed,
            progress=progress,
            decoder=lambda: pool,
        )
