from __future__ import annotations

from typing import Any

import pytest
from ray.autoscaler._private.util import prepare_config

from dim_ray.config import StudyConfig
from dim_ray.distributed.growth import first_nodes, most_resources
from dim_ray.distributed.resources import plan_placement
from tests.cluster.configurations import LAUNCHED, load

HEAD_ALONE = {"CPU": 0.0, "GPU": 0.0, "memory": 1e9, "node:__internal_head__": 1.0}


def workers(**types: tuple[int, dict[str, float]]) -> dict[str, Any]:
    """Returns an autoscaler's configuration with types of a name, so many nodes of each, and their resources."""
    described = {name: {"max_workers": count, "resources": resources} for name, (count, resources) in types.items()}
    return {"head_node_type": "head", "available_node_types": {"head": {"resources": {"CPU": 99}}, **described}}


@pytest.mark.parametrize("name", ["cluster.yaml", "gcp.yaml"])
def test_study_on_a_cluster_without_workers_counts_on_those_that_it_may_start(name: str) -> None:
    config = prepare_config(load(name))
    placement = plan_placement(StudyConfig(workers_per_trial=2), most_resources(config, HEAD_ALONE))
    assert placement.gpus_per_worker == 1
    assert placement.max_concurrent == config["max_workers"] // 2


def test_no_more_nodes_are_counted_than_the_cluster_and_each_type_may_have() -> None:
    config = {"max_workers": 5, **workers(small=(10, {"CPU": 4}), large=(2, {"CPU": 16, "GPU": 4}))}
    assert most_resources(config, {"CPU": 1.0}) == {"CPU": 2 * 16 + 3 * 4, "GPU": 2 * 4}


def test_what_is_there_counts_even_where_the_configuration_knows_nothing_of_it() -> None:
    config = {"max_workers": 1, **workers(small=(1, {"CPU": 4}))}
    assert most_resources(config, {"CPU": 8.0, "trial_driver": 1.0}) == {"CPU": 8.0, "trial_driver": 1.0}


def test_machines_of_a_fixed_list_are_all_waited_for_and_those_of_a_cloud_are_not() -> None:
    assert {name: first_nodes(prepare_config(load(name))) for name in LAUNCHED} == {
        "cluster.yaml": 1,
        "gcp.yaml": 1,
        "on_prem.yaml": 3,
    }
