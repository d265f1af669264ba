"""The address of a server, and the proxy to it, if any."""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from rsd_core import ConfigurationError

OPENAI = "https://api.openai.com/v1"


def checked_url(url: str) -> str:
    """A normalised base URL; `/v1` is added if it has no path.

    Raises:
        ConfigurationError: It is not an http URL, or contains a password or a query, which would appear in logs.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError as error:  # an incomplete IPv6 address, a non-numeric port, a name with an empty part
        raise ConfigurationError(
            f"{url!r} is not a base URL ({error}); write one like http://127.0.0.1:8000/v1"
        ) from None
    readable = url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not readable:
        raise ConfigurationError(f"{url!r} is not a base URL; write one like http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query:
        raise ConfigurationError(
            f"the base URL of {parts.hostname} must not contain a password or a query; name the key's variable with "
            "key_env=…"
        )
    return url.rstrip("/") if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/v1"


def is_openai(url: str) -> bool:
    """Whether it is OpenAI's own, with regional ones such as `https://eu.api.openai.com/v1`."""
    host, own = urlsplit(url).hostname or "", urlsplit(OPENAI).hostname or ""
    return host == own or host.endswith(f".{own}")


def is_local(url: str) -> bool:
    """Whether it is on this machine."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for a server on another machine."""
    parts = urlsplit(url)
    if is_local(url) or proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)
