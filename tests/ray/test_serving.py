"""The server on Ray Serve: replicas answer as a decoder does, and a file of Ray's says how many there are."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from ray.cluster_utils import Cluster
from ray.serve.schema import ServeDeploySchema

from rsd_core import ConfigurationError, RSDConfig
from rsd_integrations.ray import serving
from tests.cookbook.build import FOLDER

RECIPES = FOLDER / "recipes"


def deployment(args: dict[str, Any]) -> Any:
    """What Ray Serve is told of the deployment."""
    return serving.build_app(args)._bound_deployment


@pytest.mark.parametrize("name", ["ray-serve", "ray-serve-small"])
def test_the_recipes_are_of_ray_serves_form_and_name_what_is_there(name: str) -> None:
    told = ServeDeploySchema.model_validate(yaml.safe_load((RECIPES / f"{name}.yaml").read_text()))
    (app,) = [one for one in told.applications if one.import_path == "rsd_integrations.ray.serving:build_app"]
    assert [one.name for one in app.deployments] == [deployment(app.args).name]


def test_replicas_take_what_the_server_takes_and_scale_before_it_is_full() -> None:
    made = deployment({"models": {"a": {}, "b": {"method": "target"}}, "concurrency": 10, "queue": 5, "drain": 7})
    assert made.max_ongoing_requests == 16
    assert made._deployment_config.graceful_shutdown_timeout_s == 7
    scaling = made._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (1, 8, 8)
    assert made.ray_actor_options["num_cpus"] == 1


def test_what_is_wrong_is_reported_where_the_app_is_built() -> None:
    with pytest.raises(ConfigurationError, match=r"drafter.*names no model"):
        serving.build_app({"drafter": "nonsense"})
    with pytest.raises(ConfigurationError, match="environment variable NO_SUCH_KEY is empty in this replica"):
        serving._keys("NO_SUCH_KEY")


@pytest.fixture
def url(cluster: Cluster, tmp_path: Path) -> Any:
    """The small recipe as its page says to run it, but for the port, and with keys."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = yaml.safe_load((RECIPES / "ray-serve-small.yaml").read_text())
    data["http_options"]["port"] = port
    (app,) = data["applications"]
    app["args"]["key_env"] = "CLIENT_KEYS"
    app["runtime_env"] = {"env_vars": {"CLIENT_KEYS": "one two"}}
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(data))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [str(Path(sys.executable).with_name("serve")), "run", str(file), "--address", cluster.address]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        own, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 90
        while True:
            assert process.poll() is None, process.stdout and process.stdout.read()
            assert time.monotonic() < deadline
            try:
                if httpx.get(f"{own}/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        try:
            yield own
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        finally:
            process.kill()


def test_the_small_recipe_answers_as_the_decoder_does(url: str, questions: list[str]) -> None:
    with httpx.Client(base_url=url, headers={"authorization": "Bearer two"}, timeout=60) as client:
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["rsd", "target"]
        body = {"model": "rsd", "messages": [{"role": "user", "content": questions[0]}], "temperature": 0.8, "seed": 3}
        answer = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        events = client.post("/v1/chat/completions", json={**body, "stream": True}).text
    settings = {"settings": {"temperature": 0.8, "seed": 3}}
    assert answer == RSDConfig.parse(settings).build().run(questions[0]).text
    assert events.count("data: ") > 3
    assert events.rstrip().endswith("data: [DONE]")
