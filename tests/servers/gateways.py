"""Gateways on loopback before the servers of the launcher: LiteLLM's proxy and nginx."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

import httpx

from tests.servers.launcher import LOGS, ROOT, Server

LITELLM = ROOT / ".venv-litellm" / "bin" / "litellm"
KEY = "sk-loopback"
"""LiteLLM hands nothing out without one."""
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")


class LiteLLM(Server):
    """LiteLLM's proxy.

    Args:
        routes: By the name of a model in requests, the provider that LiteLLM takes its server for, and the server.
    """

    environment: Mapping[str, str] = {
        "LITELLM_MASTER_KEY": KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks for prices at its home
        "LITELLM_TELEMETRY": "False",
        "NO_COLOR": "1",
    }

    def __init__(self, routes: Mapping[str, tuple[str, Server]]) -> None:
        super().__init__("litellm", ROOT)
        self.routes, self.program = routes, LITELLM

    def _command(self) -> list[str]:
        config = self.log.with_suffix(".json")  # JSON is YAML
        models = [
            {
                "model_name": name,
                "litellm_params": {"model": f"{provider}/{server.name}", "api_base": server.url, "api_key": "none"},
            }
            for name, (provider, server) in self.routes.items()
        ]
        config.write_text(json.dumps({"model_list": models, "litellm_settings": {"telemetry": False}}))
        return [
            *(str(self.program), "--config", str(config), "--telemetry", "False"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
        ]

    def answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health/liveliness", timeout=5).is_success
        except httpx.HTTPError:
            return False


class Nginx(Server):
    """nginx, with a server below each prefix and its defaults: it buffers, and closes connections that were idle.

    Args:
        places: The servers by their prefixes, such as `/llm/draft/v1`.
        keep_alive: Seconds until it closes an idle connection.
    """

    environment: Mapping[str, str] = {}

    def __init__(self, places: Mapping[str, Server], keep_alive: int = 75) -> None:
        super().__init__("nginx", ROOT)
        self.places, self.keep_alive, self.program = places, keep_alive, Path(NGINX or "nginx")

    def url_of(self, prefix: str) -> str:
        """The base URL of the server there."""
        return f"http://127.0.0.1:{self.port}{prefix}"

    def _command(self) -> list[str]:
        folder = LOGS / f"nginx-{self.port}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        temporary = "".join(
            f"    {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        places = "".join(
            f"        location {prefix.removesuffix('/v1')}/ {{ proxy_pass {server.url.removesuffix('/v1')}/; "
            "proxy_http_version 1.1; }\n"
            for prefix, server in self.places.items()
        )
        (folder / "nginx.conf").write_text(
            f"pid {folder}/pid;\nerror_log stderr;\ndaemon off;\nworker_processes 1;\n"
            "events { worker_connections 512; }\n"
            f"http {{\n    access_log off;\n{temporary}    keepalive_timeout {self.keep_alive};\n"
            f"    server {{\n        listen 127.0.0.1:{self.port};\n{places}    }}\n}}\n"
        )
        return [str(self.program), "-p", str(folder), "-c", str(folder / "nginx.conf")]

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
