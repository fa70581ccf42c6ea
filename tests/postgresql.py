"""A real PostgreSQL server for tests; a module that needs it imports the fixture."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg2
import pytest

NOBODY = 65534  # PostgreSQL refuses to run as root


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def postgres():
    """The URI of an empty database on a PostgreSQL server of this module."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    binaries = [str(path) for path in folders] + [os.environ.get("PATH", "")]
    initdb = shutil.which("initdb", path=os.pathsep.join(binaries))
    if initdb is None:
        pytest.skip("no PostgreSQL: install its server for this test (initdb, postgres)")
    server_binary = Path(initdb).resolve().with_name("postgres")
    owner = {"user": NOBODY, "group": NOBODY} if os.getuid() == 0 else {}
    # Not below pytest's folder, which only its owner may access.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if owner:
        os.chown(folder, NOBODY, NOBODY)
    data, port = folder / "data", free_port()
    server = None
    try:
        subprocess.run(
            [initdb, "-D", data, "-U", "tester", "--auth=trust", "--no-sync", "-E", "UTF8"],
            check=True,
            capture_output=True,
            cwd=folder,
            **owner,
        )
        server = subprocess.Popen(
            [
                *(server_binary, "-D", data, "-c", "fsync=off"),
                *("-p", str(port), "-k", folder, "-h", "127.0.0.1"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            **owner,
        )
        wait_until_ready(f"postgresql://tester@127.0.0.1:{port}/postgres")
        yield f"postgresql+psycopg2://tester@127.0.0.1:{port}/postgres"
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)  # fast shutdown
            server.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_ready(uri):
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg2.connect(uri).close()
            return
        except psycopg2.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
