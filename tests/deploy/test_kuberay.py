"""The KubeRay manifests, against the fields of KubeRay 1.6 (ray.io/v1) as far as they use them."""

import re

import pytest

from tests.deploy.job_commands import check_job_command
from tests.deploy.strict_yaml import DEPLOY, read_yaml

CLUSTER = read_yaml("kuberay/cluster.yaml")
TRAINING = read_yaml("kuberay/training.yaml")
SPECS = {"cluster": CLUSTER["spec"], "training": TRAINING["spec"]["rayClusterSpec"]}

# Kubernetes drops or refuses fields that its schema does not have.
RAY_CLUSTER = {
    *("rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions"),
    *("headGroupSpec", "workerGroupSpecs"),
}
RAY_JOB = {
    *("entrypoint", "backoffLimit", "submissionMode", "shutdownAfterJobFinishes"),
    *("ttlSecondsAfterFinished", "rayClusterSpec"),
}
HEAD = {"rayStartParams", "template"}
WORKERS = {*HEAD, "groupName", "replicas", "minReplicas", "maxReplicas"}
POD = {"restartPolicy", "securityContext", "containers"}
CONTAINER = {"name", "image", "securityContext", "envFrom", "resources"}
QUANTITY = re.compile(r"\d+(Mi|Gi|m)?")


def groups(spec):
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pods(spec):
    return [group["template"]["spec"] for group in groups(spec)]


def containers(spec):
    return [container for pod in pods(spec) for container in pod["containers"]]


def test_the_kinds_are_those_of_kuberay():
    assert (CLUSTER["apiVersion"], CLUSTER["kind"]) == ("ray.io/v1", "RayCluster")
    assert (TRAINING["apiVersion"], TRAINING["kind"]) == ("ray.io/v1", "RayJob")
    assert set(TRAINING["spec"]) == RAY_JOB
    assert TRAINING["spec"]["submissionMode"] in {"K8sJobMode", "HTTPMode"}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_only_fields_that_exist_are_used(spec):
    assert set(spec) <= RAY_CLUSTER
    assert set(spec["headGroupSpec"]) == HEAD
    for group in spec["workerGroupSpecs"]:
        assert set(group) == WORKERS
        assert 0 < group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in groups(spec):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for pod in pods(spec):
        assert set(pod) == POD
    for container in containers(spec):
        assert set(container) == CONTAINER


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_cluster_asks_for_a_token_from_a_secret(spec):
    assert spec["authOptions"] == {"mode": "token", "secretName": "maskrcnn-ray-token"}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_container_has_equal_requests_and_limits(spec):
    for container in containers(spec):
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        assert {"cpu", "memory"} <= set(resources["limits"])
        assert all(QUANTITY.fullmatch(amount) for amount in resources["limits"].values())


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_no_container_may_become_root(spec):
    for pod in pods(spec):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
    for container in containers(spec):
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_pods_of_a_single_training_do_not_restart_inside_a_dead_cluster():
    assert {pod["restartPolicy"] for pod in pods(SPECS["training"])} == {"Never"}
    assert TRAINING["spec"]["backoffLimit"] > 0
    # The autoscaler replaces workers; a restarted one would be a machine it does not know.
    _head, *workers = pods(SPECS["cluster"])
    assert {pod["restartPolicy"] for pod in workers} == {"Never"}


def test_the_training_fits_its_cluster():
    settings = dict(
        word.split("=", 1) for word in TRAINING["spec"]["entrypoint"].split() if "=" in word
    )
    [group] = SPECS["training"]["workerGroupSpecs"]
    assert int(settings["train.workers"]) == group["replicas"]
    assert settings["output"].startswith("s3://")


def test_the_entrypoint_is_a_job_with_valid_settings():
    check_job_command(TRAINING["spec"]["entrypoint"])
    assert not set("&|;<>$`") & set(TRAINING["spec"]["entrypoint"])


def test_the_secret_of_the_jobs_is_an_example_without_values():
    lines = (DEPLOY / "kuberay" / "secret.env.example").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    secret = {name for name in values if "KEY" in name or "TRACKING" in name}
    assert len(secret) == 4
    assert all(values[name] == "" for name in secret)
