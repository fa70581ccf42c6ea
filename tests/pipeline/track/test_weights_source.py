"""Weights come from the newest checkpoint of an output, or from a web server."""

import functools
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from model.weights import WeightsError
from model.weights.storage.download import CACHE_VARIABLE
from pipeline.config import RunConfig
from pipeline.track.weights_source import newest_checkpoint, resolve_weights


def test_the_newest_complete_checkpoint_is_selected(run_config, tiny_checkpoint):
    with pytest.raises(FileNotFoundError, match="train first"):
        newest_checkpoint(run_config)
    training = Path(run_config.output) / "train"
    for step, files in ((20, 2), (100, 2), (120, 1)):
        folder = training / f"step_{step:08d}"
        folder.mkdir(parents=True)
        for name in ("model.safetensors", "model.json")[:files]:
            (folder / name).write_bytes((tiny_checkpoint / name).read_bytes())
    assert newest_checkpoint(run_config) == str(training / "step_00000100")


@pytest.fixture
def address(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    served = tmp_path / "served"
    served.mkdir()
    torch.save({"conv1.weight": torch.ones(3)}, served / "weights.pth")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(served))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/weights.pth"
    server.shutdown()
    server.server_close()


def test_weights_on_a_web_server_resolve_to_a_local_file(address, tmp_path):
    content = (tmp_path / "served" / "weights.pth").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    with resolve_weights(f"{address}#sha256={digest}", RunConfig()) as path:
        assert path.read_bytes() == content


def test_weights_with_another_digest_are_refused(address):
    wrong = f"{address}#sha256={'0' * 64}"
    with (
        pytest.raises(WeightsError, match="must have the SHA-256"),
        resolve_weights(wrong, RunConfig()),
    ):
        pass
