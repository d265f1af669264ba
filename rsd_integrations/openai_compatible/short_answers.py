"""Short greedy answers for testing a server before anything depends on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rsd_core import Path, Usage
from rsd_integrations.openai_compatible.answers import Answer, read_answer, received
from rsd_integrations.openai_compatible.endpoint import Endpoint
from rsd_integrations.openai_compatible.finish_reasons import FinishReasons
from rsd_integrations.openai_compatible.prompts import Prompts
from rsd_integrations.openai_compatible.request_fields import RequestFields
from rsd_integrations.openai_compatible.server import Server

QUESTION = "Count from one to ten."
Choice = Mapping[str, Any]


class ShortAnswers:
    """Queries one model in the way it will be used.

    Args:
        endpoint: Where it is.
        prompts: How it is asked.
        fields: The user's part of requests.
        server: What is known of its server.
        reasons: The server's finish reasons.
        pay: Receives the work of each answer.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        prompts: Prompts,
        fields: RequestFields,
        server: Server,
        reasons: FinishReasons,
        pay: Callable[[Usage], None],
    ) -> None:
        self.endpoint, self.prompts, self.fields, self.server = endpoint, prompts, fields, server
        self._reasons, self._pay = reasons, pay

    async def to(self, path: Path, tokens: int, stop: str | None = None) -> tuple[Answer, Choice]:
        """The answer that follows a path, and the choice it was read from.

        Args:
            path: The path.
            tokens: Maximum length.
            stop: A stop string, which the server is asked to keep according to its profile.

        Raises:
            ConfigurationError: The server refuses the request, or has read something else.
            EndpointError: It failed, after all retries.
        """
        profile = self.server.profile
        sent = self.prompts.render(path, profile)
        body = {"model": self.endpoint.model, **sent.fields, "max_tokens": tokens, "temperature": 0, **profile.plain}
        if stop is not None:
            body |= {"stop": [stop], **profile.keep}
        begun = "" if profile.repeats == "never" else sent.begun

        def read(reply: Mapping[str, Any]) -> tuple[Answer, Choice]:
            answer = read_answer(reply, None, profile, begun=begun, markers=sent.markers, reasons=self._reasons)
            return answer, reply["choices"][0]

        def charge(reply: Mapping[str, Any], told: tuple[Answer, Choice] | None, seconds: float) -> None:
            self._pay(self.prompts.usage(sent, told[0] if told else received(reply), seconds))

        answer, choice = await self.endpoint.post(sent.route, self.fields.applied(body, profile), read, charge)
        sent.check_read(answer.read, self.server.context)
        return answer, choice
