"""`rsd serve` in a container and in Kubernetes: files that match each other, the schemas and the package."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from rsd_core import RSDConfig
from rsd_integrations.cli.serve import HARD_END
from rsd_integrations.serve import ServeConfig
from rsd_integrations.yaml_data import parse_yaml
from tests.cookbook.build import FOLDER
from tests.serve.process import rsd_serve
from tests.serve.running import running, scripted

RECIPES = FOLDER / "recipes"
INSTRUCTIONS = {"FROM", "ARG", "COPY", "RUN", "ENV", "VOLUME", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
DRAIN = int(ServeConfig.model_fields["drain"].default) + HARD_END
"""Seconds in which `rsd serve` ends, by default."""


def resources(*files: str) -> dict[tuple[str, str], Any]:
    """What the files describe, by kind and name."""
    found: dict[tuple[str, str], Any] = {}
    for file in files:
        for one in yaml.safe_load_all((RECIPES / file).read_text()):
            key = one["kind"], one["metadata"]["name"]
            assert key not in found
            found[key] = one
    return found


def cluster() -> dict[tuple[str, str], Any]:
    return resources("kubernetes.yaml", "kubernetes-serve.yaml")


def pods() -> dict[str, Any]:
    """The pod of each deployment."""
    return {name: one["spec"]["template"] for (kind, name), one in cluster().items() if kind == "Deployment"}


def container(name: str) -> Any:
    [one] = pods()[name]["spec"]["containers"]
    return one


def containerfile() -> list[tuple[str, str]]:
    """Its instructions, each with its arguments."""
    text = (RECIPES / "Containerfile").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def instruction(name: str) -> str:
    [found] = [rest for one, rest in containerfile() if one == name]
    return found


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("name", [f"{kind} {name}" for kind, name in cluster()])
def test_a_resource_is_of_its_schema(name: str, version: str) -> None:
    kind, _, name = name.partition(" ")
    kubernetes_validate.validate(cluster()[kind, name], version, strict=True)


def test_every_deployment_has_a_service_and_a_budget_that_select_its_pods() -> None:
    found = cluster()
    assert set(pods()) == {"rsd-draft", "rsd-target", "rsd-reward", "rsd-serve"}
    for name, pod in pods().items():
        labels = pod["metadata"]["labels"].items()
        deployment, service = found["Deployment", name]["spec"], found["Service", name]["spec"]
        assert deployment["selector"]["matchLabels"].items() <= labels
        assert found["PodDisruptionBudget", name]["spec"]["selector"]["matchLabels"].items() <= labels
        assert service["selector"].items() <= labels
        [port] = container(name)["ports"]
        assert (service["ports"], port["name"]) == ([{"port": 80, "targetPort": port["name"]}], "http")
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container(name)[probe]["httpGet"] == {"path": "/health", "port": "http"}
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert container(name)["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        mounted = {one["name"] for one in container(name)["volumeMounts"]}
        assert mounted == {one["name"] for one in pod["spec"]["volumes"]}


def test_the_configuration_asks_for_the_models_that_are_served_and_only_for_those() -> None:
    models = ServeConfig.parse(parse_yaml(cluster()["ConfigMap", "rsd-serve"]["data"]["serve.yaml"])).models
    assert list(models) == ["rsd", "rsd-careful", "target"]
    assert models["rsd"] == RSDConfig.parse(parse_yaml((RECIPES / "replicas.yaml").read_text()))
    for role, name in (("drafter", "rsd-draft"), ("target", "rsd-target"), ("verifier", "rsd-reward")):
        model, _, url = getattr(models["rsd"], role).partition(":")[2].partition("@")
        arguments = container(name)["args"]
        assert arguments[arguments.index("--model") + 1] == model
        assert url == f"http://{name}/v1"
        assert getattr(models["rsd-careful"], role) == getattr(models["rsd"], role)
    with models["target"].build() as decoder:  # no model in process, which this image cannot run
        assert [type(model).__name__ for model in decoder.models] == ["OpenAIGenerator"]


def test_pods_have_the_time_to_end_what_they_have_begun() -> None:
    for name, pod in pods().items():
        arguments = container(name).get("args", [])
        drain = int(arguments[arguments.index("--shutdown-timeout") + 1]) + 5 if arguments else DRAIN
        before = container(name)["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["spec"]["terminationGracePeriodSeconds"] >= drain + before


def test_models_take_requests_from_the_server_alone() -> None:
    policy = cluster()["NetworkPolicy", "rsd-models"]["spec"]
    [rule] = policy["ingress"]
    [source] = rule["from"]
    selected = policy["podSelector"]["matchLabels"].items()
    allowed = source["podSelector"]["matchLabels"].items()
    labels = {name: pod["metadata"]["labels"].items() for name, pod in pods().items()}
    assert {name for name in labels if selected <= labels[name]} == {"rsd-draft", "rsd-target", "rsd-reward"}
    assert {name for name in labels if allowed <= labels[name]} == {"rsd-serve"}
    assert rule["ports"] == [{"port": "http"}]


def test_no_key_is_in_the_files() -> None:
    assert cluster()["Secret", "rsd-serve"]["stringData"] == {"key": ""}


def test_the_deployment_mounts_what_the_image_reads_and_writes() -> None:
    arguments = json.loads(instruction("CMD"))
    read = dict(zip(arguments[::2], arguments[1::2], strict=True))
    pod = pods()["rsd-serve"]["spec"]
    served = container("rsd-serve")
    places = {one["mountPath"]: one["name"] for one in served["volumeMounts"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    folder, _, file = read["--config"].rpartition("/")
    source = volumes[places[folder]]["configMap"]["name"]
    assert file in cluster()["ConfigMap", source]["data"]
    folder, _, file = read["--api-key-file"].rpartition("/")
    source = volumes[places[folder]]["secret"]["secretName"]
    assert file in cluster()["Secret", source]["stringData"]
    assert instruction("ENV") == f"HF_HOME={instruction('VOLUME')}"
    assert "emptyDir" in volumes[places[instruction("VOLUME")]]
    assert served["securityContext"]["readOnlyRootFilesystem"]
    assert "emptyDir" in volumes[places["/tmp"]]
    assert pod["securityContext"]["runAsUser"] == int(instruction("USER"))
    assert str(served["ports"][0]["containerPort"]) == read["--port"] == instruction("EXPOSE")
    assert "args" not in served


def test_the_containerfile_installs_what_the_package_offers_and_leaves_root_before_it_starts() -> None:
    names = [name for name, _ in containerfile()]
    assert set(names) <= INSTRUCTIONS
    assert (names[0], names[-2:]) == ("FROM", ["ENTRYPOINT", "CMD"])
    assert names.index("RUN") < names.index("USER") < names.index("ENTRYPOINT")
    assert instruction("FROM") == "python:3.11-slim"
    user = instruction("USER")
    assert int(user) > 0
    assert f"useradd --uid {user} " in instruction("RUN")
    assert f"--owner {user} {instruction('VOLUME')}" in instruction("RUN")
    name, _, extras = instruction("ARG").partition("=")
    assert f'"$(echo /wheels/*.whl)[${{{name}}}]" transformers jinja2' in instruction("RUN")
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
    assert instruction("COPY") == f"{project['name'].replace('-', '_')}-*.whl /wheels/"
    assert names.index("COPY") < names.index("RUN")
    assert {"serve"} == set(extras.split(",")) <= set(project["optional-dependencies"])
    assert json.loads(instruction("ENTRYPOINT")) == ["rsd", "serve"]


def healthy(port: int) -> bool:
    """What the health check of the image says of a port."""
    command = json.loads(instruction("HEALTHCHECK").partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    code = command[2].replace(instruction("EXPOSE"), str(port))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30).returncode == 0


SCRIPTED = "{drafter: 'scripted:draft', verifier: 'scripted:verifier', target: 'scripted:target'}"


def test_rsd_serve_takes_the_options_of_the_image_which_sees_whether_it_is_well(tmp_path: Path) -> None:
    arguments = json.loads(instruction("CMD"))
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    (tmp_path / "serve.yaml").write_text(SCRIPTED)
    (tmp_path / "key").write_text("key")
    here = {"--config": f"{tmp_path}/serve.yaml", "--api-key-file": f"{tmp_path}/key", "--host": "127.0.0.1"}
    assert options.keys() == here.keys() | {"--port"}  # for which the test takes a free one
    with rsd_serve(tmp_path / "log", *itertools.chain(*here.items())) as url:
        port = int(url.rpartition(":")[2])
        assert httpx.get(f"{url}/v1/models", trust_env=False).status_code == 401
        assert healthy(port)
    assert not healthy(port)


def test_a_server_that_drains_is_not_well() -> None:
    with running(decoders={"rsd": scripted()}) as server:
        port = int(server.url.rpartition(":")[2])
        assert healthy(port)
        server.serving.admission.draining = True
        assert not healthy(port)
