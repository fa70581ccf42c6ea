"""The Ray cluster on AWS, against Ray's own schema and rules."""

import importlib.metadata
import shlex

import click
import jsonschema
import pytest
from ray.autoscaler._private.docker import validate_docker_config
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

from tests.deploy.strict_yaml import ROOT, read_yaml

CLUSTER = read_yaml("aws.yaml")


def test_ray_accepts_it():
    complete = prepare_config(CLUSTER)
    validate_config(complete)
    validate_docker_config(complete)
    assert complete["setup_commands"] == complete["head_setup_commands"] == []


def test_ray_would_refuse_an_unknown_key():
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(prepare_config({**CLUSTER, "idle_timeout": 3}))


def test_the_node_types_agree():
    types = CLUSTER["available_node_types"]
    assert CLUSTER["head_node_type"] in types
    workers = [each for name, each in types.items() if name != CLUSTER["head_node_type"]]
    assert all(0 < each["min_workers"] <= each["max_workers"] for each in workers)
    assert CLUSTER["max_workers"] >= max(each["max_workers"] for each in workers)


def test_ray_starts_with_a_token_and_options_that_exist():
    commands = CLUSTER["head_start_ray_commands"] + CLUSTER["worker_start_ray_commands"]
    starts = [line.split("; ")[-1] for line in commands if "ray start" in line]
    assert len(starts) == 2
    known = {name for option in start.params for name in option.opts}
    for line in starts:
        mode, ray, verb, *options = shlex.split(line)
        assert (mode, ray, verb) == ("RAY_AUTH_MODE=token", "ray", "start")
        assert {option.split("=")[0] for option in options} <= known
    assert isinstance(start, click.Command)
    assert "/home/ray/.ray" in CLUSTER["file_mounts"]


def test_strangers_reach_no_port_but_ssh():
    group = CLUSTER["provider"]["security_group"]["IpPermissions"]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in group] == [(22, 22)]
    assert "0.0.0.0/0" not in (ROOT / "deploy" / "aws.yaml").read_text()


def test_the_manifests_name_the_ray_that_the_image_installs():
    pinned = (ROOT / "constraints.txt").read_text()
    assert f"ray=={importlib.metadata.version('ray')}" in pinned.splitlines()
    for cluster in (
        read_yaml("kuberay/cluster.yaml")["spec"],
        read_yaml("kuberay/training.yaml")["spec"]["rayClusterSpec"],
    ):
        assert f"ray=={cluster['rayVersion']}" in pinned.splitlines()
