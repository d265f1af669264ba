"""The cluster: an existing one, or one on this machine that lives as long as needed."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import ray

from rsd_core import RSDError

PATIENCE = 10.0
"""Seconds for a cluster's head to accept a connection. Ray itself keeps trying for a quarter of an hour."""


@contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Connect to a cluster; an existing connection of this process is reused.

    Args:
        address: `HOST:PORT` or `ray://HOST:PORT`. None uses the environment variable `RAY_ADDRESS`; if that is empty,
            starts Ray on this machine only, without dashboard and usage reports. Its processes end with the calling
            thread.

    Raises:
        RSDError: No cluster can be reached there.
    """
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    address = address or os.environ.get("RAY_ADDRESS") or None
    try:
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init("local", include_dashboard=False, **quiet)
        else:
            _try_out(address)
            ray.init(address, **quiet)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        what = "Ray cannot be started on this machine" if address is None else f"there is no Ray cluster at {address}"
        raise RSDError(f"{what}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def nodes() -> list[Mapping[str, float]]:
    """The resources of each node that is alive, as Ray names them."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _try_out(address: str) -> None:
    """Check that something listens at `HOST:PORT`; other forms are left to Ray.

    Raises:
        OSError: Nothing does.
        ValueError: The port is not a number.
    """
    url = urlsplit(address if "://" in address else f"ray://{address}")
    if url.hostname and url.port:
        socket.create_connection((url.hostname, url.port), PATIENCE).close()
