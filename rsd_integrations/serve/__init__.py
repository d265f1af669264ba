"""RSD behind a URL: an OpenAI-compatible API over decoders, as an ASGI app."""

from rsd_core import MissingDependency

try:
    from rsd_integrations.serve.app import create_app
    from rsd_integrations.serve.config import ServeConfig
    from rsd_integrations.serve.serving import Serving
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] in ("rsd_core", "rsd_integrations"):
        raise
    raise MissingDependency(error.name or "fastapi", "serve", "the server") from error

__all__ = ["ServeConfig", "Serving", "create_app"]
