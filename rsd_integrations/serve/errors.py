"""Errors in the OpenAI format."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rsd_core import ConfigurationError, PromptError, Result, RSDError, RunError
from rsd_core.control_characters import visible
from rsd_core.data import masked

logger = logging.getLogger(__name__)
_TEXT, _TEXT_OR_NULL = {"type": "string"}, {"type": ["string", "null"]}
_ERROR = {
    "type": "object",
    "required": ["message", "type", "param", "code"],
    "properties": {"message": _TEXT, "type": _TEXT, "param": _TEXT_OR_NULL, "code": _TEXT_OR_NULL},
}
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "What is wrong, and what to do.",
        "content": {
            "application/json": {"schema": {"type": "object", "required": ["error"], "properties": {"error": _ERROR}}}
        },
    }
}
"""Errors in the OpenAPI document."""


class ApiError(Exception):
    """An error response.

    Args:
        status: HTTP status.
        message: What is wrong, and what to do.
        kind: `type` in the OpenAI API.
        param: The field concerned.
        code: A machine-readable code.
        headers: Further headers, such as `retry-after`.
        partial: What had been written before the error.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        partial: Result | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code = param, code
        self.headers, self.partial = dict(headers or {}), partial

    @property
    def body(self) -> bytes:
        """The error as JSON."""
        error: dict[str, Any] = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        if self.partial is not None:
            error["rsd"] = self.partial.to_dict(rejected=False)
        return orjson.dumps({"error": error})


def unsupported(param: str, why: str) -> ApiError:
    """The error for a field that cannot be honoured."""
    return ApiError(400, f"{param} is not supported: {why}", param=param, code="unsupported_parameter")


def invalid(message: str, param: str | None = None) -> ApiError:
    """The error for an invalid value."""
    return ApiError(400, message, param=param, code="invalid_value")


def too_long(most: int) -> ApiError:
    """The error for a body of more than this many bytes."""
    return ApiError(413, f"the body is longer than this server's limit of {most} bytes", code="body_too_long")


def ending() -> ApiError:
    """The error while the server is shutting down."""
    again = {"retry-after": "1"}
    return ApiError(503, "the server is shutting down; use another one", "server_error", code="draining", headers=again)


def as_api_error(error: BaseException) -> ApiError:
    """The error for clients; an unexpected one is logged, and its message withheld from clients."""
    if isinstance(error, ApiError):
        return error
    message = visible(masked(str(error)))
    if isinstance(error, PromptError):
        long = "context" in message or "too long" in message
        return ApiError(400, message, param="messages", code="context_length_exceeded" if long else "invalid_prompt")
    if isinstance(error, ConfigurationError):
        return ApiError(400, message, code="invalid_configuration")
    if isinstance(error, RunError):
        logger.error("a request failed: %s", message)
        return ApiError(502, message, "server_error", code="model_failed", partial=error.partial)
    if isinstance(error, RSDError):
        return ApiError(500, message, "server_error")
    logger.error("unexpected error: %s", type(error).__name__, exc_info=error)
    return ApiError(500, "internal error; see the server's log", "server_error", code="internal_error")


def of_validation(findings: Sequence[Mapping[str, Any]]) -> ApiError:
    """Pydantic's findings about a body, with the first one's field as `param`."""
    told = []
    for item in findings:
        if item["type"] == "json_invalid":
            return invalid(f"the body is not JSON: {item.get('ctx', {}).get('error')} at character {item['loc'][-1]}")
        place = ".".join(str(part) for part in item["loc"] if part != "body")
        told.append(f"{place + ': ' if place else ''}{item['msg'].removeprefix('Value error, ')}")
    first = [part for part in findings[0]["loc"] if part != "body"]
    param = str(first[0]) if first and isinstance(first[0], str) else None
    return invalid(visible(masked("; ".join(told)))[:2000], param)
