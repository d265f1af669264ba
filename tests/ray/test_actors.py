"""The number of actors and their resources, by their models."""

from __future__ import annotations

import pytest

from rsd_core import ConfigurationError, RSDConfig
from rsd_integrations.ray import Actors

SERVER = "openai:m@http://127.0.0.1:9/v1"
SERVERS = RSDConfig(drafter=SERVER, verifier=f"judge:{SERVER}", target=SERVER)
LOADED = RSDConfig(drafter="hf:small", verifier="prm:judge", target="hf:large")
MACHINE = {"CPU": 8.0, "memory": 64e9}


def test_models_behind_servers_are_asked_by_one_light_actor_of_each_node() -> None:
    fitted = Actors().fitted(SERVERS, [MACHINE, MACHINE, {"CPU": 0.0}])
    assert (fitted.count, fitted.concurrency, fitted.num_cpus, fitted.num_gpus) == (2, 64, 1, 0)


def test_models_in_process_fill_the_cluster_and_leave_a_core_to_ray_data() -> None:
    assert Actors().fitted(LOADED, [MACHINE, MACHINE]).count == 16
    assert Actors().fitted(LOADED, [MACHINE, MACHINE], spare_cpus=1).count == 15
    assert Actors(num_cpus=8).fitted(LOADED, [MACHINE, MACHINE], spare_cpus=1).count == 1
    assert Actors(memory=30e9).fitted(LOADED, [MACHINE, MACHINE]).count == 4


def test_models_in_process_take_a_gpu_where_there_is_one() -> None:
    gpus = [MACHINE | {"GPU": 4.0}, MACHINE]
    fitted = Actors().fitted(LOADED, gpus)
    assert (fitted.count, fitted.options) == (4, {"num_cpus": 1, "num_gpus": 1})
    assert Actors(num_gpus=0.5).fitted(LOADED, gpus).count == 8
    for spared in (SERVERS, RSDConfig(), RSDConfig(**dict.fromkeys(("drafter", "target"), "hf,device=cpu:x"))):
        assert Actors().fitted(spared, gpus).num_gpus == 0


def test_a_model_inside_of_another_counts() -> None:
    judged = SERVERS.model_copy(update={"verifier": "cascade:rule:arithmetic|(judge:hf:large)"})
    assert Actors().fitted(judged, [MACHINE]).count == 8
    alone = SERVERS.model_copy(update={"drafter": "hf:unused"})
    assert Actors().fitted(RSDConfig.parse({**alone.model_dump(), "method": "target"}), [MACHINE]).count == 1


def test_there_is_always_one_and_what_is_said_counts() -> None:
    assert Actors().fitted(LOADED, [{"CPU": 1.0}], spare_cpus=1).count == 1
    assert Actors(count=7, num_cpus=0.5).fitted(SERVERS, [MACHINE]).options == {"num_cpus": 0.5, "num_gpus": 0}
    assert Actors(max_count=3).fitted(LOADED, [MACHINE]).count == 3


def test_actors_are_written_as_a_number_or_by_name() -> None:
    assert Actors.parse("4") == Actors(count=4)
    assert Actors.parse("count=4,num_gpus=0.5,memory=8e9") == Actors(count=4, num_gpus=0.5, memory=8e9)
    with pytest.raises(ConfigurationError, match=r"actors 'cont=4': cont: unknown name, did you mean 'count'\?"):
        Actors.parse("cont=4")
    with pytest.raises(ConfigurationError, match="max_count=1 is below count=2"):
        Actors.parse("2,1")
