"""Weights come from the newest checkpoint of an output, or from a web server."""

import functools
import hashlib
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from model.weights import WeightsError
from model.weights.storage.download import CACHE_VARIABLE
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.track.stored_weights import trained_checkpoint
from pipeline.track.weights_source import resolve_weights


def test_the_newest_complete_checkpoint_is_selected(run_config, tiny_checkpoint):
    with pytest.raises(FileNotFoundError, match="train first"):
        trained_checkpoint(run_config)
    training = Path(run_config.output) / "train"
    for step, files in ((20, 2), (100, 2), (120, 1)):
        folder = training / f"step_{step:08d}"
        folder.mkdir(parents=True)
        for name in ("model.safetensors", "model.json")[:files]:
            (folder / name).write_bytes((tiny_checkpoint / name).read_bytes())
    assert trained_checkpoint(run_config) == str(training / "step_00000100")


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


@pytest.fixture(params=["path", pytest.param("s3", marks=pytest.mark.s3)])
def stored_run(request, tmp_path, tiny_checkpoint):
    """The URL of a run's folder with two checkpoints, on disk and in S3."""
    url = request.getfixturevalue("s3")("run") if request.param == "s3" else str(tmp_path / "run")
    for step in (20, 100):
        checkpoint = storage.join(url, "train", f"step_{step:08d}")
        storage.upload_folder(tiny_checkpoint, checkpoint)
        storage.write_bytes(storage.join(checkpoint, "training.pt"), b"the optimizer's state")
    return url


@pytest.mark.parametrize("below", ["", "train", "train/step_00000100"])
def test_a_run_resolves_to_its_trained_checkpoint(stored_run, tiny_checkpoint, below):
    damaged = storage.join(stored_run, "train", "step_00000020", "model.safetensors")
    storage.write_bytes(damaged, b"damaged")
    with resolve_weights(storage.join(stored_run, below), RunConfig()) as folder:
        for name in ("model.safetensors", "model.json"):
            assert (folder / name).read_bytes() == (tiny_checkpoint / name).read_bytes()


@pytest.mark.parametrize("file", ["model.safetensors", "model.json"])
@pytest.mark.parametrize("single", [False, True], ids=["folder", "file"])
def test_damage_is_named_with_the_url_of_the_file(stored_run, file, single):
    folder = storage.join(stored_run, "train", "step_00000100")
    url = storage.join(folder, file)
    content = storage.read_bytes(url)
    storage.write_bytes(url, content[:100] + b"\0" + content[101:])
    with (
        pytest.raises(WeightsError) as raised,
        resolve_weights(url if single else folder, RunConfig()),
    ):
        pass
    assert str(raised.value).startswith(f"{url} is damaged")
    assert "\n" not in str(raised.value)


def test_a_folder_without_config_is_named_with_the_remedy(stored_run):
    folder = storage.join(stored_run, "train", "step_00000100")
    storage.delete(storage.join(folder, "model.json"))
    with (
        pytest.raises(storage.MissingFileError, match=r"but no model\.json, which states"),
        resolve_weights(folder, RunConfig()),
    ):
        pass
    with resolve_weights(storage.join(folder, "model.safetensors"), RunConfig()) as path:
        assert path.is_file()


@pytest.mark.parametrize("missing", ["nothing", "train/step_00000300", "shards"])
def test_a_source_without_a_model_is_named(stored_run, missing):
    storage.write_bytes(storage.join(stored_run, "shards/manifest.json"), b"{}")
    source = storage.join(stored_run, missing)
    with (
        pytest.raises(storage.MissingFileError, match=source),
        resolve_weights(source, RunConfig()),
    ):
        pass


def test_checkpoints_that_were_set_aside_are_not_selected(run_config, tiny_checkpoint):
    training = Path(run_config.output) / "train"
    shutil.copytree(tiny_checkpoint, training / "damaged-step_00000100")
    with pytest.raises(FileNotFoundError, match="train first"):
        trained_checkpoint(run_config)


def test_a_run_resolves_to_the_checkpoint_that_it_names_as_the_best(stored_run, tiny_checkpoint):
    newest = storage.join(stored_run, "train", "step_00000100", "model.safetensors")
    storage.write_bytes(newest, b"not the best")
    best = storage.join(stored_run, "train", "best.json")
    storage.write_json(best, {"checkpoint": "step_00000020"})
    expected = (tiny_checkpoint / "model.safetensors").read_bytes()
    with resolve_weights(stored_run, RunConfig()) as folder:
        assert (folder / "model.safetensors").read_bytes() == expected
    url = trained_checkpoint(RunConfig.model_validate({"output": stored_run}))
    assert url == storage.join(stored_run, "train", "step_00000020")
