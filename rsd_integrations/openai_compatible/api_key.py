"""API keys: read from the environment, sent only to their own server, and never shown."""

from __future__ import annotations

import json
import os
from urllib.parse import urlsplit

from pydantic import SecretStr

from rsd_core import ConfigurationError
from rsd_integrations.openai_compatible.base_url import OPENAI, is_local, is_openai


def find_key(url: str, variable: str | None) -> SecretStr | None:
    """The key for a base URL.

    Args:
        url: Where the key would be sent.
        variable: The environment variable with the key. By default OPENAI_API_KEY, for OpenAI, OPENAI_BASE_URL and this
            machine; other hosts get none.

    Raises:
        ConfigurationError: The variable is empty although a key is needed, or its value is invalid in an HTTP header.
    """
    own = urlsplit(os.environ.get("OPENAI_BASE_URL") or OPENAI).hostname
    if variable is None and not (is_local(url) or is_openai(url) or urlsplit(url).hostname == own):
        return None
    name = variable or "OPENAI_API_KEY"
    key = os.environ.get(name, "").strip()  # files end in a newline
    if not key and (variable is not None or is_openai(url)):
        raise ConfigurationError(f"{url} needs a key, but the environment variable {name} is empty. Set it first.")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigurationError(
            f"the environment variable {name} does not contain a key: keys are printable ASCII characters without "
            "spaces. Copy it again."
        )
    return SecretStr(key) if key else None


def without_key(text: str, key: SecretStr | None) -> str:
    """A text with the key removed, since some servers echo it."""
    if key is None:
        return text
    secret = key.get_secret_value()
    return text.replace(secret, "…").replace(json.dumps(secret)[1:-1], "…")
