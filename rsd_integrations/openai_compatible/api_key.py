"""The key of an API: read from the environment, sent to its own server, and shown to nobody."""

from __future__ import annotations

import json
import os
from urllib.parse import urlsplit

from pydantic import SecretStr

from rsd_core import ConfigurationError
from rsd_integrations.openai_compatible.base_url import OPENAI, is_local


def find_key(url: str, variable: str | None) -> SecretStr | None:
    """The key for a base URL.

    Args:
        url: Where it would be sent.
        variable: The environment variable that holds it. By default OPENAI_API_KEY, for OpenAI, OPENAI_BASE_URL and
            this machine; other hosts get none.

    Raises:
        ConfigurationError: The variable is empty where a key is needed, or holds what no HTTP header can.
    """
    own = [urlsplit(one).hostname for one in (OPENAI, os.environ.get("OPENAI_BASE_URL") or OPENAI)]
    if variable is None and not is_local(url) and urlsplit(url).hostname not in own:
        return None
    name = variable or "OPENAI_API_KEY"
    key = os.environ.get(name, "").strip()  # files end in a newline
    if not key and (variable is not None or url.startswith(OPENAI)):
        raise ConfigurationError(f"{url} needs a key, and the environment variable {name} is empty. Set it first.")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigurationError(
            f"the environment variable {name} holds no key: keys are printable ASCII characters without spaces. "
            "Copy it anew."
        )
    return SecretStr(key) if key else None


def without_key(text: str, key: SecretStr | None) -> str:
    """A text with the key left out; some servers show it to those who sent it."""
    if key is None:
        return text
    secret = key.get_secret_value()
    return text.replace(secret, "…").replace(json.dumps(secret)[1:-1], "…")
