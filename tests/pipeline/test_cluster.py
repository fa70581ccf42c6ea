"""A cluster that is not there is named at once, with the remedy; a local one is closed."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from ray._private import ray_constants

from pipeline import cluster
from pipeline.cluster import ClusterError, check_address
from tests.listening_sockets import is_loopback, listening_sockets

ROOT = Path(__file__).resolve().parent.parent.parent


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens_is_refused_at_once(scheme):
    address = f"{scheme}127.0.0.1:{closed_port()}"
    started = time.monotonic()
    with pytest.raises(ClusterError, match=r"unset it to use this machine alone") as raised:
        check_address(address)
    assert time.monotonic() - started < 5
    assert f"RAY_ADDRESS={address}" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("address", ["no-such-host.invalid:6379", "127.0.0.1:99999999"])
def test_an_address_that_cannot_exist_is_refused(address):
    with pytest.raises(ClusterError, match="no Ray cluster answers"):
        check_address(address)


def test_an_address_where_something_listens_is_left_to_ray():
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize("address", ["auto", "local", "http://127.0.0.1"])
def test_other_forms_are_left_to_ray(address):
    check_address(address)


@pytest.mark.ray
def test_a_local_cluster_listens_on_the_loopback_interface_only(ray_cluster):
    sockets = listening_sockets(psutil.Process())
    assert {"gcs_server", "raylet", "ray::DashboardAgent"} <= {name for name, _, _ in sockets}
    assert [name for name, address, _ in sockets if not is_loopback(address)] == []


@pytest.mark.ray
def test_a_local_cluster_leaves_the_ports_of_a_head_to_it(ray_cluster):
    """A head that `ray start` starts beside it does not take jobs without its agent's port."""
    fixed = {
        ray_constants.DEFAULT_PORT,
        ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT,
    }
    assert {port for _, _, port in listening_sockets(psutil.Process())} & fixed == set()


JOIN = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
from pipeline import cluster
try:
    GcsClient(address=sys.argv[1])
except AuthenticationError:
    print("Ray refuses")
try:
    cluster.connect()
except cluster.ClusterError as error:
    print(error)
"""


@pytest.mark.ray
@pytest.mark.parametrize(
    "settings",
    [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}],
    ids=["without a token", "with a wrong token"],
)
def test_a_process_without_the_token_cannot_join(ray_cluster, tmp_path, settings):
    address = ray_cluster.get_runtime_context().gcs_address
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH_")}
    environment = {**inherited, "HOME": str(tmp_path), "RAY_ADDRESS": address, **settings}
    process = subprocess.run(
        [sys.executable, "-c", JOIN, address],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    first, second = process.stdout.splitlines()
    assert first == "Ray refuses"
    assert f"the Ray cluster at RAY_ADDRESS={address} refuses the token" in second
    assert "docs/CLUSTER.md" in second


@pytest.mark.ray
def test_jobs_cannot_be_submitted_without_the_token(ray_cluster):
    from ray._private.worker import _global_node

    request = urllib.request.Request(
        f"http://{_global_node.webui_url}/api/jobs/",
        json.dumps({"entrypoint": "id"}).encode(),
        {"Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 401


# What Ray 2.60 reported for the head of a cluster of its fake autoscaler, shortened.
AUTOSCALED = {"autoscaler_report": {"node_type_mapping": {"ffff": "ray.head.default"}}}
READ_ONLY = {"autoscaler_report": {"node_type_mapping": {"ffff": "node_ffff"}}}


@pytest.mark.parametrize(("status", "expected"), [(AUTOSCALED, True), (READ_ONLY, False)])
def test_an_autoscaler_shows_in_the_types_of_the_machines(status, expected, monkeypatch):
    monkeypatch.setattr(cluster, "_internal_kv_get", lambda key: json.dumps(status).encode())
    assert cluster.has_autoscaler() == expected


def test_an_autoscaler_that_has_not_reported_yet_is_asked_for_otherwise(monkeypatch):
    """In the first seconds of a cluster, its monitor's status has no report."""
    status = {"load_metrics_report": {}, "monitor_pid": 1}
    monkeypatch.setattr(cluster, "_internal_kv_get", lambda key: json.dumps(status).encode())
    node = SimpleNamespace(node_id="ffff", ray_node_type_name="ray.head.default")
    present = SimpleNamespace(active_nodes=[node], idle_nodes=[])
    monkeypatch.setattr(cluster, "get_cluster_status", lambda address: present)
    context = SimpleNamespace(gcs_address="127.0.0.1:6379")
    monkeypatch.setattr(cluster.ray, "get_runtime_context", lambda: context)
    assert cluster.has_autoscaler()


@pytest.mark.ray
def test_a_cluster_of_fixed_machines_has_no_autoscaler(ray_cluster):
    assert not cluster.connect().has_autoscaler
