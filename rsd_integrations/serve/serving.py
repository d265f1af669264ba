"""The state of a server: models, queue, counters, and jobs in flight."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rsd_core import Decoder, RSDError
from rsd_core.data import masked
from rsd_integrations.serve.admission import Admission
from rsd_integrations.serve.config import ServeConfig
from rsd_integrations.serve.jobs import Job
from rsd_integrations.serve.metrics import Metrics
from rsd_integrations.serve.models import ServedModels

logger = logging.getLogger(__name__)


class Serving:
    """Shared by all routes of one server.

    Args:
        config: The models to serve, and the server's limits.
        decoders: Decoder objects by name, in addition to the configuration's.

    Raises:
        ConfigurationError: There is no model, or two have the same name.
    """

    def __init__(self, config: ServeConfig, decoders: Mapping[str, Decoder] | None = None) -> None:
        self.config = config
        self.models = ServedModels(config.models, decoders or {})
        self.admission = Admission(config.concurrency, config.queue)
        self.metrics = Metrics(self.admission)
        self._jobs: dict[int, Job] = {}
        self._warming: asyncio.Task[None] | None = None

    def warm_up(self) -> None:
        """Start loading the models, unless already started; call on the server's event loop."""
        if self._warming is None and not self.models.ready:
            self._warming = asyncio.ensure_future(self._load())

    async def _load(self) -> None:
        try:
            await self.models.load()
        except RSDError as error:  # requests get this error
            logger.error("the models cannot be loaded: %s", masked(str(error)))

    @contextmanager
    def working(self, job: Job) -> Iterator[None]:
        """Register a job in flight."""
        self._jobs[id(job)] = job
        try:
            yield
        finally:
            del self._jobs[id(job)]

    def drain(self) -> None:
        """Stop admitting requests, and end those not done in time; what is written by then is sent.

        Call on the server's event loop.
        """
        if not self.admission.draining:
            self.admission.draining = True
            logger.info("draining: %d answers in flight, %d waiting", self.admission.in_flight, self.admission.waiting)
            asyncio.get_running_loop().call_later(self.config.drain, self._end)

    def _end(self) -> None:
        for job in self._jobs.values():
            job.cancel.cancel()
