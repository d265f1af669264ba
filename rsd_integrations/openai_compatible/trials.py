"""Tests of a server before the first step depends on it: run once, charged to the first call that needs them."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Protocol

from rsd_core import ConfigurationError, Generation, Path, RunError, StepRequest, Usage, as_prompt, usage_of
from rsd_integrations.openai_compatible.background import Once
from rsd_integrations.openai_compatible.charges import Charges
from rsd_integrations.openai_compatible.continuation import check_chat_steps, check_completion_steps
from rsd_integrations.openai_compatible.discovery import spec_of
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.errors import WrongProfile
from rsd_integrations.openai_compatible.finish_reasons import FinishReasons
from rsd_integrations.openai_compatible.profile import Profile
from rsd_integrations.openai_compatible.profiles import PROFILES
from rsd_integrations.openai_compatible.prompts import Prompts
from rsd_integrations.openai_compatible.request_fields import RequestFields
from rsd_integrations.openai_compatible.server import Server, learn
from rsd_integrations.openai_compatible.short_answers import QUESTION, ShortAnswers
from rsd_integrations.openai_compatible.step_ends import TOKENS, StepEnds, find_step_ends

logger = logging.getLogger(__name__)
STEP_ENDS: dict[tuple[str, ...], StepEnds] = {}
"""How step ends are marked, as established in this process."""
GOES_ON: set[tuple[str, ...]] = set()
"""Servers known to continue an answer exactly."""


class Tried(Protocol):
    """A generator whose server is tested."""

    endpoint: Endpoint
    prompts: Prompts
    fields: RequestFields
    profile: Profile | None

    async def server(self) -> Server:
        """What the server reports about itself."""

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        """Write the step that follows the path."""

    def like(self, profile: Profile | None) -> Tried:
        """The same model, assuming another kind of server."""


class Trials:
    """For use on the background loop.

    Args:
        model: The model on the server.
        reasons: The server's finish reasons.
    """

    def __init__(self, model: Tried, reasons: FinishReasons) -> None:
        self._model, self._reasons = model, reasons
        self._continuation = Once(self._check_continuation)
        self._proof = Once(self._prove_step_ends)
        self._unpaid: list[Usage] = []

    async def for_step(self, server: Server, path: Path, request: StepRequest, charges: Charges) -> Server:
        """The server as used for steps: if it does not reveal step ends, they are cut here.

        Raises:
            ConfigurationError: It does not continue a begun answer, or is not of the kind given by the user.
        """
        prompts, splitter = self._model.prompts, request.splitter
        try:
            if prompts.mode == "chat" and (splitter is not None or path.step is not None):
                await self._continuation.result()
            if splitter is not None and splitter.stops:
                server = await self._proof.result()
        finally:
            self._charge(charges)
        return server

    async def check_reading(self, charges: Charges) -> None:
        """Test whether completions read what is sent, if an answer's counts did not show it.

        Raises:
            ConfigurationError: They do not.
        """
        prompts = self._model.prompts
        if prompts.mode == "completions" and prompts.vocabulary is not None:
            try:
                await self._continuation.result()
            finally:
                self._charge(charges)

    async def step_ends(self) -> StepEnds:
        """How step ends are marked; errors as in `find_step_ends`."""
        ask = await self._ask()
        key = self._key(ask.server)
        if key not in STEP_ENDS:
            found = await find_step_ends(ask)
            logger.info("%s %s", ask.endpoint, found.reason)
            if not found.told:  # the next model tests again, since it may have been fixed meanwhile
                return found
            STEP_ENDS[key] = found
        return STEP_ENDS[key]

    async def aclose(self) -> None:
        """Cancel running tests, and wait for them to end."""
        await self._continuation.aclose()
        await self._proof.aclose()

    def _charge(self, charges: Charges) -> None:
        """Charge a call for the tests run meanwhile."""
        while self._unpaid:
            charges.add(self._unpaid.pop(0))

    async def _ask(self) -> ShortAnswers:
        model = self._model
        server = await model.server()
        return ShortAnswers(model.endpoint, model.prompts, model.fields, server, self._reasons, self._unpaid.append)

    def _key(self, server: Server) -> tuple[str, ...]:
        """What a result applies to: shared by all models of the process that send the same kind of request."""
        endpoint, prompts, fields = self._model.endpoint, self._model.prompts, self._model.fields
        own = json.dumps([fields.template, fields.body, sorted(fields.omit)], sort_keys=True)
        how = (prompts.mode, prompts.tokenizer or "", server.profile.name, own)
        return endpoint.base_url, endpoint.model, *how

    async def _check_continuation(self) -> None:
        ask = await self._ask()
        key = self._key(ask.server)
        if key not in GOES_ON:
            await (check_chat_steps if ask.prompts.mode == "chat" else check_completion_steps)(ask)
            GOES_ON.add(key)

    async def _prove_step_ends(self) -> Server:
        model, server = self._model, await self._model.server()
        found = await self.step_ends()
        if found.told:
            return server
        if found.way == "stripped" and model.profile is not None:
            use = await self._spec_that_works(found.stop)
            raise WrongProfile(
                f"{model.endpoint} {found.reason}. So with profile={model.profile.name} the end of a step cannot be "
                "distinguished from the end of the answer, and every answer would end after its first step. Remedy: "
                + (use or _NOTHING),
                use,
            )
        logger.warning("%s %s; so steps are streamed and cut here", model.endpoint, found.reason)
        return replace(server, profile=replace(server.profile, stop="streamed"))

    async def _spec_that_works(self, stop: str) -> str | None:
        """A spec for the same model with which a step was written and its end recognised; None if none was found."""
        model = self._model
        recognised = (await learn(model.endpoint, None, None)).profile
        asked = StepRequest((0,), TOKENS, stop)
        for profile in (None, *(PROFILES[name] for name in _TRIED if name != recognised.name)):
            other = model.like(profile)
            try:
                generation = await other.generate(Path(as_prompt(QUESTION)), asked)
                self._unpaid.append(generation.usage)
                if generation.steps[0].ending == "delimiter":
                    server = await other.server()
                    return spec_of(model.endpoint, model.prompts, model.fields, server, profile is not None)
            except (ConfigurationError, RunError) as error:
                self._unpaid.append(usage_of(error) or Usage())
                logger.debug("%s does not work with profile=%s: %s", model.endpoint, profile or recognised, error)
        return None


_TRIED = ("generic", "llamacpp", "ollama")
"""Profiles of servers that strip stop strings."""
_NOTHING = (
    "the server itself, if there is a gateway; a tokenizer=… with mode=completions; granularity='turn'. Nothing "
    "else tried works"
)
