"""The meaning of a server's replies: JSON with a result, or a fault, reported without the key."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn, TypeVar

from pydantic import SecretStr

from rsd_core import ConfigurationError, PromptError, RunError
from rsd_integrations.openai_compatible.api_key import without_key
from rsd_integrations.openai_compatible.errors import EndpointError, Refused, code_in, readable, reason_in
from rsd_integrations.openai_compatible.json_data import decoded
from rsd_integrations.openai_compatible.refusals import (
    FILTERED,
    NO_MONEY,
    is_full,
    named_field,
    remedy,
    remedy_of_fault,
    remedy_of_size,
)
from rsd_integrations.openai_compatible.retry import AWAY, BUSY, is_retried, retry_after

T = TypeVar("T")
_PAGE = re.compile(rb"\s*<(?:!doctype|html|head|body)\b", re.IGNORECASE)
_WRONG_SHAPE = (LookupError, TypeError, ValueError, AttributeError, OverflowError)


class Replies:
    """Reads the replies of one server.

    Args:
        name: The server's name, for messages.
        key: The key, which messages must not show.
        spent: See `Profile.spent`.
    """

    def __init__(self, name: str, key: SecretStr | None, spent: Collection[str] = ()) -> None:
        self._name, self._key, self._spent = name, key, spent
        self._gave_json = False

    def refuse(self, status: int, headers: Mapping[str, str], text: str, sent: Mapping[str, Any]) -> NoReturn:
        """Raise the error for an error status.

        Args:
            status: The status.
            headers: The reply's headers.
            text: Its body.
            sent: The body of the request.

        Raises:
            EndpointError: A retry may help.
            Refused: It rejects the request.
            PromptError: A filter rejects the prompt.
        """
        reason, code = self.shown(reason_in(text)), code_in(text)
        if status in (400, 403) and code in FILTERED:
            raise PromptError(
                f"a filter of {self._name} rejects the prompt: {reason}. It is not retried; use another prompt, or a "
                "server without that filter"
            )
        hopeless = remedy_of_fault(reason) if status == 500 else None
        if status == 429 and self._spent:
            hopeless = NO_MONEY if code in self._spent else remedy_of_size(reason)
        if is_retried(status) and hopeless is None:
            wait = retry_after(headers)
            raise EndpointError(
                f"{self._name} answered HTTP {status}: {reason}",
                status=status,
                throttled=status in BUSY or wait is not None or is_full(reason),
                retry_after=wait,
                outage=status in AWAY,
            )
        remedies = {
            401: "check the API key; key_env=NAME names the variable that holds it",
            402: NO_MONEY,
            403: "check the API key; key_env=NAME names the variable that holds it",
            404: "check the model's name and the base URL, which usually ends in /v1",
        }
        field = named_field(text, sent) if status in (400, 422) else None
        hint = hopeless or remedies.get(status) or remedy(field, reason, sent)
        raise Refused(
            f"{self._name} answered HTTP {status}: {reason}. Remedy: {hint}.",
            status,
            reason,
            field,
            None if field is None else sent.get(field),
        )

    def parsed(self, data: bytes) -> dict[str, Any]:
        """The object in a body or an event.

        Raises:
            EndpointError: It contains no object, or an error; or a web page in place of an API that worked before.
            Refused: It contains a web page, and no API ever answered.
        """
        try:
            parsed = decoded(data)
        except (ValueError, RecursionError):
            if _PAGE.match(data):
                self.refuse_page(data)
            raise EndpointError(
                f"{self._name} returned something other than JSON: {self.shown(data.decode(errors='replace'), 80)}"
            ) from None
        if not isinstance(parsed, dict):
            raise EndpointError(
                f"{self._name} returned {type(parsed).__name__} instead of an object: {self.shown(data.decode(), 80)}"
            )
        self._gave_json = True
        if parsed.get("error") and "choices" not in parsed:  # some always have the field, with null
            # Errors in streams, and from servers that always answer 200.
            reason = self.shown(reason_in(json.dumps(parsed)))
            raise EndpointError(f"{self._name} returned an error: {reason}", throttled=is_full(reason))
        return parsed

    def refuse_page(self, data: bytes) -> NoReturn:
        """Raise the error for a web page with status 200.

        Raises:
            EndpointError: The API worked before: a gateway shows the page while the server is unavailable.
            Refused: It never worked: the URL belongs to something else.
        """
        told = f"{self._name} answered with a web page: {self.shown(reason_in(data.decode(errors='replace')), 80)}"
        if self._gave_json:
            raise EndpointError(told, outage=True)
        raise Refused(f"{told}. Remedy: check the base URL; the API of most servers is at /v1.", 200, "a web page")

    def result(self, read: Callable[[dict[str, Any]], T], data: dict[str, Any]) -> T:
        """The result read from an answer.

        Raises:
            EndpointError: It cannot be read, which is a fault of the server.
        """
        try:
            return read(data)
        except ConfigurationError:
            raise
        except RunError as error:
            raise EndpointError(f"{self._name}: {self.shown(str(error), 2000)}") from None
        except _WRONG_SHAPE as error:
            reason, shown = self.shown(repr(error)), self.shown(json.dumps(data), 160)
            raise EndpointError(f"{self._name} returned an answer in an unknown format ({reason}): {shown}") from None

    def shown(self, text: str, length: int = 400) -> str:
        """The beginning of an untrusted text, safe for messages and logs: without the key."""
        return readable(without_key(text, self._key), length)  # in this order, so that no part of the key remains
