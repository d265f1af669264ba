"""`rsd batch` over a cluster: the same file of results, by the same journal, answered by actors."""

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
    """Decode problems on a cluster, each result a line of a file here as it comes.

    The file is that of `run_journaled`: each goes on with what the other began.

    Args:
        config: What each actor builds its decoder from.
        problems: As in `run_journaled`, as are the next ones.
        out: The file, on this machine; only this process writes it.
        address: The cluster, see `connected`.
        actors: How many decoders, and what each takes.
        retry_failed: See `run_journaled`.
        progress: See `run_journaled`.

    Raises:
        RSDError: No cluster can be reached, or what `run_journaled` raises.
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
