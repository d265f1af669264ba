"""A decoder whose requests are answered by actors anywhere in the cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError

from rsd_core import ConfigurationError, PromptLike, Result, RSDConfig, RSDError, RunError, as_prompt
from rsd_core.blocking import in_thread
from rsd_core.concurrency import settle
from rsd_core.decoder import Decoder
from rsd_core.paths import Prompt
from rsd_core.queueing import side_by_side
from rsd_integrations.ray.actors import Actors
from rsd_integrations.ray.cluster import nodes

logger = logging.getLogger(__name__)

DEATHS = 3
"""A request is given up after this many actors died while working on it, since it may be what kills them."""
PATIENCE = 30.0
"""Seconds without any actor before a warning."""
FAREWELL = 5.0
"""Seconds for an actor to cancel its requests in flight."""


class Worker:
    """A decoder in its own process."""

    def __init__(self, config: Mapping[str, Any], concurrency: int) -> None:
        self._config, self._concurrency = config, concurrency
        self._decoder: Decoder | None = None

    async def load(self) -> str | None:
        """Build the decoder; return what is wrong with the configuration on this node, if anything."""
        try:
            self._decoder = await in_thread(RSDConfig.parse(dict(self._config)).build)
        except RSDError as error:
            return str(error)
        except Exception as error:
            return f"the decoder cannot be built: {error!r}"
        return None

    async def answer(self, prompt: Prompt, repeat: int) -> dict[str, Any]:
        """A result as JSON data; for a failed request `error`, and what was written by then."""
        assert self._decoder is not None
        try:
            with side_by_side(self._concurrency):
                result = await self._decoder.arun(prompt, repeat=repeat)
        except RunError as error:
            return {"error": str(error), "result": error.partial and error.partial.to_dict()}
        except ConfigurationError as error:
            return {"refused": str(error)}
        return {"result": result.to_dict()}

    async def close(self) -> None:
        """Close the models' connections."""
        if self._decoder is not None:
            await self._decoder.aclose()


class _Seat:
    """A slot for one actor at a time: when one dies, the next takes its place."""

    def __init__(self) -> None:
        self.actor: Any = None
        """None until an actor has loaded its models."""
        self.load = 0
        """Requests it has in flight."""
        self.lost = asyncio.Event()


class DecoderPool:
    """Answers requests with actors of a cluster, with the same results as the decoder itself.

    Used as an asynchronous context manager, in a process that is connected to Ray. An actor that dies, or whose node
    dies, is replaced if there is room, and only its requests are repeated elsewhere. No result is returned twice.

    Args:
        config: The configuration from which each actor builds its decoder. It must be valid on every node: its paths,
            installed packages, and the environment variables that hold keys.
        actors: Their number, and the resources of each; by default what the configuration needs.
    """

    def __init__(self, config: RSDConfig, actors: Actors | None = None) -> None:
        self._config = config
        self._actors = (actors or Actors()).fitted(config, nodes())
        self._changed = asyncio.Condition()
        self._seats = [_Seat() for _ in range(self._actors.max_count or self._actors.count or 1)]
        self._keepers: list[asyncio.Task[None]] = []
        self._given_up: list[RSDError] = []

    @property
    def places(self) -> int:
        """Maximum number of concurrent requests over all actors."""
        return len(self._seats) * self._actors.concurrency

    async def __aenter__(self) -> Self:
        """Start the actors, and wait for the first one.

        Raises:
            ConfigurationError: No actor can build its decoder.
        """
        self._keepers = [asyncio.create_task(self._keep(seat)) for seat in self._seats]
        try:
            await self._free()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await settle(self._keepers)
        actors = [seat.actor for seat in self._seats if seat.actor is not None]
        if actors:
            await asyncio.wait([asyncio.create_task(_dismiss(actor)) for actor in actors])

    async def arun(self, prompt: PromptLike, *, repeat: int = 0) -> Result:
        """Decode one prompt, like `Decoder.arun`.

        Raises:
            RunError: A role failed for good, or every actor that worked on it died.
            ConfigurationError: The prompt is invalid.
        """
        messages, deaths = as_prompt(prompt), 0
        while True:
            seat = await self._free()
            actor, seat.load = seat.actor, seat.load + 1
            asked = actor.answer.remote(messages, repeat)
            try:
                return _read(await asked, messages)
            except asyncio.CancelledError:
                ray.cancel(asked)
                raise
            except RayTaskError:
                raise
            except RayError as error:
                deaths += 1
                if seat.actor is actor:  # the first request to notice
                    logger.warning("an actor died; its %d requests are repeated: %s", seat.load, _in_a_line(error))
                    seat.actor = None
                    seat.lost.set()
                if deaths == DEATHS:
                    message = f"{deaths} actors died while working on it, the last one with: {_in_a_line(error)}"
                    raise RunError(message) from error
            finally:
                async with self._changed:
                    seat.load -= 1
                    self._changed.notify()

    async def _free(self) -> _Seat:
        """The least loaded seat, once there is one.

        Raises:
            ConfigurationError: No actor can build its decoder.
        """
        async with self._changed:
            while True:
                if len(self._given_up) == len(self._seats):
                    raise self._given_up[0]
                ready = [seat for seat in self._seats if seat.actor is not None]
                seat = min(ready, key=lambda seat: seat.load, default=None)
                if seat is not None and seat.load < self._actors.concurrency:
                    return seat
                await self._changed.wait()

    async def _keep(self, seat: _Seat) -> None:
        """Keep a seat filled, replacing actors that die."""
        own = {"max_concurrency": self._actors.concurrency + 1, "scheduling_strategy": "SPREAD"}
        remote: Any = ray.remote(Worker).options(**own, **self._actors.options)
        config, deaths = self._config.model_dump(mode="json"), 0
        while True:
            actor, wrong = remote.remote(config, self._actors.concurrency), None
            try:
                wrong = await self._loaded(actor)
            except RayError as error:
                deaths += 1
                logger.warning("an actor died while loading its models: %s", _in_a_line(error))
                if deaths == DEATHS:
                    wrong = f"{deaths} actors died while loading their models, the last one with: {_in_a_line(error)}"
                else:
                    await asyncio.sleep(1.0)
                    continue
            except asyncio.CancelledError:
                ray.kill(actor)
                raise
            async with self._changed:
                if wrong is not None:
                    logger.warning("an actor is given up: %s", wrong)
                    self._given_up.append(ConfigurationError(wrong))
                seat.actor, deaths = None if wrong else actor, 0
                seat.lost.clear()
                self._changed.notify_all()
            if wrong is not None:
                return
            await seat.lost.wait()
            with suppress(RayError):
                ray.kill(actor)

    async def _loaded(self, actor: Any) -> str | None:
        """What is wrong with an actor's configuration, once known; meanwhile, logs what it waits for."""
        ready = asyncio.ensure_future(_awaited(actor.load.remote()))
        try:
            while not (await asyncio.wait([ready], timeout=PATIENCE))[0]:
                if not any(seat.actor for seat in self._seats):
                    takes = ", ".join(f"{name}={value:g}" for name, value in self._actors.options.items())
                    free = ", ".join(f"{size:g} {name}" for name, size in ray.available_resources().items())
                    logger.warning(
                        "no actor is ready yet: models are loading, or there is no room for them: each takes %s, "
                        "and the cluster has free: %s",
                        takes,
                        free,
                    )
            wrong: str | None = ready.result()
            return wrong
        finally:
            ready.cancel()


async def _awaited(reference: Any) -> Any:
    return await reference


async def _dismiss(actor: Any) -> None:
    """Let an actor close its connections, then end it."""
    with suppress(RayError, TimeoutError):
        await asyncio.wait_for(_awaited(actor.close.remote()), FAREWELL)
    ray.kill(actor)


def _in_a_line(error: Exception) -> str:
    """Ray's account of a death on one line; it has several, with the end of the node's log if the node died."""
    return " ".join(str(error).split())[:400]


def _read(reply: dict[str, Any], prompt: Prompt) -> Result:
    """The result in a reply.

    Raises:
        RunError: It failed.
        ConfigurationError: The prompt is invalid.
    """
    if "refused" in reply:
        raise ConfigurationError(reply["refused"])
    result = reply["result"] and replace(Result.from_dict(reply["result"]), prompt=prompt)
    if "error" in reply:
        error = RunError(reply["error"])
        error.partial = result
        raise error
    return result
