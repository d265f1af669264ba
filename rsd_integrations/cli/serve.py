"""`rsd serve`: RSD behind a URL, for clients of the OpenAI API."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
import uvicorn

from rsd_core import ConfigurationError, RSDError
from rsd_core.blocking import wait_for
from rsd_integrations.cli.options import (
    ConfigFile,
    Draft,
    MethodText,
    PolicyText,
    TargetSpec,
    VerifierSpec,
    configured,
    read_mapping,
)
from rsd_integrations.cli.starting import without_collection
from rsd_integrations.cli.terminal import say
from rsd_integrations.cli.unused import refuse_unused
from rsd_integrations.serve import ServeConfig, Serving, create_app
from rsd_integrations.serve.config import NAME
from rsd_integrations.serve.edge import REQUEST_ID

CONNECTIONS = 65_536
"""Files and connections that the process may have open, if the system's hard limit allows it."""
KEPT = 75
"""Seconds that an idle connection is kept: longer than in nginx, which then never uses a closed one."""
HARD_END = 5
"""Seconds after the end of the drain for sending answers that were cut."""
LOG = "%(asctime)s %(levelname)s [%(request_id)s] %(message)s"


def serve(
    draft: Draft = None,
    target: TargetSpec = None,
    verifier: VerifierSpec = None,
    policy: PolicyText = None,
    method: MethodText = None,
    config: ConfigFile = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 127.0.0.1 is this machine only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 chooses a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file", metavar="FILE", help="Keys that clients may use, one per line, besides # comments."
        ),
    ] = None,
) -> None:
    """Answer clients of the OpenAI API: RSD behind a URL, streamed step by step.

    `--config` takes a file with `models`, a configuration for each name, or a single configuration. A single one, or
    one from options alone, is served as `rsd`; without any, it is the embedded family.

    Example: `rsd serve --port 8000`, then `curl http://127.0.0.1:8000/v1/models`
    """
    words = {"draft": draft, "target": target, "verifier": verifier, "policy": policy}
    served = _served(config, words, method)
    keys = _keys(api_key_file)
    if not keys and not _is_loopback(host):
        say(f"Warning: anyone who can reach {host} can use this server, since it has no --api-key-file", "yellow")
    listener = _listen(host, port)
    _allow_many_connections()
    serving = Serving(served)
    with without_collection():
        wait_for(serving.models.load())
    _log_to_stderr()
    shown = f"[{host}]" if ":" in host else host
    say(f"serving {', '.join(served.models)} at http://{shown}:{listener.getsockname()[1]}/v1")
    app = create_app(keys=keys, serving=serving)
    settings = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEPT,
        timeout_graceful_shutdown=int(served.drain) + HARD_END,
    )
    _Server(settings, serving).run([listener])


class _Server(uvicorn.Server):
    """uvicorn's server, which tells the app when it is asked to end."""

    def __init__(self, settings: uvicorn.Config, serving: Serving) -> None:
        super().__init__(settings)
        self._serving = serving

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._serving.drain()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # having drained is a success, not a death by the signal


def _served(config: Path | None, words: dict[str, str | None], method: str | None) -> ServeConfig:
    data, given = read_mapping(config, "--config"), [name for name, word in words.items() if word is not None]
    given += ["method"] if method is not None else []
    if not config and not given:
        return ServeConfig.embedded()
    if "models" not in data:
        if beside := [name for name in ServeConfig.model_fields if name in data]:
            raise RSDError(
                f"--config {config}: {beside[0]} needs models, which is missing: put the rest of the file "
                "under models, with a name"
            )
        own = configured(data, **words, temperature=None, seed=None, source=f"--config {config}", method=method)
        refuse_unused(own, data, f"--config {config}", **words)
        return ServeConfig(models={NAME: own})
    if given:
        raise RSDError(f"--{given[0]} is for one model, but --config {config} names several; set it there")
    try:
        served = ServeConfig.parse(data)
    except ConfigurationError as error:
        raise ConfigurationError(f"--config {config}: {error}") from error
    for name, one in served.models.items():
        refuse_unused(one, data["models"][name] or {}, f"--config {config}: models.{name}")
    return served


def _allow_many_connections() -> None:
    """Raise the soft limit on open files, which is 1,024 in most shells: each client takes one."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS if hard == resource.RLIM_INFINITY else min(CONNECTIONS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _keys(file: Path | None) -> list[str]:
    """The keys in a file; errors do not show them."""
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise RSDError(f"--api-key-file {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise RSDError(f"--api-key-file {file} is not UTF-8") from None
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise RSDError(f"--api-key-file {file} has no keys; write one per line")
    return keys


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    """A socket, bound before models are loaded, so that a port in use is reported at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        ours = error.errno in (errno.EADDRINUSE, errno.EACCES)
        what = f"choose another {'--port' if ours else '--host'}"
        raise RSDError(f"cannot listen on {host} port {port}: {_reason(error)}; {what}") from error
    # asyncio does so for its own sockets; otherwise an answer's end waits for its client's delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _reason(error: OSError) -> str:
    """The system's words, without the address that Python adds."""
    return (error.strerror or str(error)).partition(" (while attempting")[0]


def _log_to_stderr() -> None:
    """One line per request and degradation, with the id of the request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(LOG))
    handler.addFilter(_with_request_id)
    for name in ("rsd_core", "rsd_integrations", "uvicorn.error"):
        own = logging.getLogger(name)
        own.setLevel(logging.INFO if name.startswith("rsd") else logging.WARNING)
        own.handlers = [handler]  # in place of the other commands' own
        own.propagate = False


def _with_request_id(record: logging.LogRecord) -> bool:
    record.request_id = REQUEST_ID.get()
    return True
