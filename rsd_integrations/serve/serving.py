"""The state of a server: its models, its queue, its counters, and what is in flight."""

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
    """What all routes of one server share.

    Args:
        config: What is served, and the server's own limits.
        decoders: Ready decoders by name, beside those of the configuration.

    Raises:
        ConfigurationError: There is no model, or two have one name.
    """

    def __init__(self, config: ServeConfig, decoders: Mapping[str, Decoder] | None = None) -> None:
        self.config = config
        self.models = ServedModels(config.models, decoders or {})
        self.admission = Admission(config.concurrency, config.queue)
        self.metrics = Metrics(self.admission)
        self._jobs: dict[int, Job] = {}
        self._warming: asyncio.Task[None] | None = None

    def warm_up(self) -> None:
        """Begin to load the models, unless that was begun; to be called on the server's event loop."""
        if self._warming is None and not self.models.ready:
            self._warming = asyncio.ensure_future(self._load())

    async def _load(self) -> None:
        try:
            await self.models.load()
        except RSDError as error:  # whoever asks is told so
            logger.error("the models cannot be loaded: %s", masked(str(error)))

    @contextmanager
    def working(self, job: Job) -> Iterator[None]:
        """Have a job among those in flight."""
        self._jobs[id(job)] = job
        try:
            yield
        finally:
            del self._jobs[id(job)]

    def drain(self) -> None:
        """Let nobody in any more, and end what is not done in time; what is written by then is sent.

        To be called on the server's event loop.
        """
        if not self.admission.draining:
            self.admission.draining = True
            logger.info("draining: %d answers are decoded, %d wait", self.admission.in_flight, self.admission.waiting)
            asyncio.get_running_loop().call_later(self.config.drain, self._end)

    def _end(self) -> None:
        for job in self._jobs.values():
            job.cancel.cancel()
