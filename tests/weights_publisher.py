"""A publisher of weights on this machine, whose files have random values and right digests."""

import functools
import hashlib
import http.server
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml

from model.weights.published import table
from model.weights.published.fetch import MIRRORS_VARIABLE
from model.weights.storage.download import CACHE_VARIABLE


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        super().do_GET()

    def log_message(self, *arguments):
        pass


@dataclass
class Publisher:
    """A web server with files of weights.

    Args:
        folder: its files.
        address: of the folder.
        requests: the paths that were requested.
        files: word -> name of the file.
    """

    folder: Path
    address: str
    requests: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="session")
def weights_files(tmp_path_factory):
    """A backbone and a detector as torchvision saves them, named with their digests; word -> path.

    They are the smallest of the table: ResNet-18, and Faster R-CNN with ResNet-50-FPN.
    """
    from torchvision.models import detection, resnet18

    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    models = {
        "imagenet": ("resnet18", resnet18()),
        "coco": (
            "fasterrcnn_resnet50_fpn_coco",
            detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None),
        ),
    }
    paths = {}
    for word, (name, network) in models.items():
        path = folder / "unnamed.pth"
        torch.save(network.state_dict(), path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        paths[word] = path.rename(folder / f"{name}-{digest[:8]}.pth")
    yield paths
    shutil.rmtree(folder)  # 200 MB


@pytest.fixture
def no_caches(tmp_path, monkeypatch):
    """Empty caches, and no mirrors."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(MIRRORS_VARIABLE, raising=False)
    yield tmp_path / "cache"
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


@pytest.fixture
def publisher(weights_files, no_caches, tmp_path, monkeypatch):
    """The publisher, whose address the table has in place of torchvision's."""
    folder = next(iter(weights_files.values())).parent
    handler = functools.partial(Handler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.requests = []
    address = f"http://127.0.0.1:{server.server_port}"
    files = {word: path.name for word, path in weights_files.items()}
    content = yaml.safe_load(table.TABLE.read_text())
    content["libraries"]["torchvision"]["address"] = address
    content["imagenet"]["torchvision"]["ResNet-18"]["file"] = files["imagenet"]
    content["coco"]["torchvision"]["Faster R-CNN R50-FPN"]["file"] = files["coco"]
    own_table = tmp_path / "weights.yaml"
    own_table.write_text(yaml.safe_dump(content, sort_keys=False))
    monkeypatch.setattr(table, "TABLE", own_table)
    table.published_weights.cache_clear()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Publisher(folder, address, server.requests, files)
    server.shutdown()
    server.server_close()
    thread.join()
    table.published_weights.cache_clear()
