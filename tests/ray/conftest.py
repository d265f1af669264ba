"""One cluster of two nodes for all tests of this folder: starting Ray takes seconds."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import warnings
from collections.abc import Iterator

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"

with warnings.catch_warnings():  # Ray 2.60 declares its own data as pydantic 2 no longer wants it
    warnings.simplefilter("ignore")
    import ray
    import ray.data
    import ray.serve
    from ray.cluster_utils import Cluster

from rsd_integrations.embedded.task import problems

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell

CPUS = 4
"""Logical ones, of each node; how many cores there really are is nothing to Ray."""
QUICK_DEATHS = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 2}
"""Ray's own patience with a node that is silent is half a minute."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes, and this process connected to them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray 2.60 warns about its own defaults, and leaves sockets to be collected
        made = Cluster(
            True, head_node_args={"num_cpus": CPUS, "include_dashboard": False, "_system_config": QUICK_DEATHS}
        )
        made.add_node(num_cpus=CPUS)
        ray.init(made.address, logging_level=logging.ERROR, log_to_driver=False)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray").setLevel("ERROR")  # it logs every plan and each of its metrics, to debug itself
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def questions() -> list[str]:
    return [problem.question for problem in itertools.islice(problems("test", 7), 200)]
