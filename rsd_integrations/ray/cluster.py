"""The cluster: one that is there, or one of this machine that lives as long as it is needed."""

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
"""Seconds that the head of a cluster has to take a connection. Ray itself goes on trying for a quarter of an hour."""


@contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Be connected to a cluster; one that this process is connected to already is taken as it is.

    Args:
        address: `HOST:PORT` or `ray://HOST:PORT`. None goes by the environment variable `RAY_ADDRESS`, and where that
            is empty starts Ray on this machine alone, without dashboard and reports of usage. Its processes end with
            the thread that calls this.

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
    """Find out whether anything listens at `HOST:PORT`; other forms are Ray's own business.

    Raises:
        OSError: Nothing does.
        ValueError: The port is no number.
    """
    url = urlsplit(address if "://" in address else f"ray://{address}")
    if url.hostname and url.port:
        socket.create_connection((url.hostname, url.port), PATIENCE).close()
