"""Kept checkpoints are logged models with the metrics of their step, and deleted ones are not."""

import re
import shutil
import uuid
from pathlib import Path

import pytest
import torch
from mlflow.entities import Metric
from safetensors.numpy import load_file, save_file

from model import load_detector
from model.weights.storage.checksums import file_sha256, write_checksums
from pipeline.shards.manifest import read_manifest
from pipeline.track.checkpoint_models import checkpoint_models, record_checkpoints
from pipeline.track.dataset_inputs import log_dataset
from tests.conftest import ROOT


@pytest.fixture
def save(tiny_checkpoint, tmp_path):
    """A function: step, number -> saves a checkpoint whose weights depend on the number."""

    def write(step, number=0):
        folder = tmp_path / "train" / f"step_{step:08d}"
        shutil.copytree(tiny_checkpoint, folder, dirs_exist_ok=True)
        tensors = load_file(tiny_checkpoint / "model.safetensors")
        name = min(tensors)
        save_file(tensors | {name: tensors[name] + number}, folder / "model.safetensors")
        write_checksums(folder, ("model.safetensors", "model.json"))
        return folder

    return write


def run_documented_search(uri, experiment, folder):
    """Run the lines in docs/TRACKING.md, and compare what they load with a checkpoint."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/TRACKING.md").read_text(), re.DOTALL)
    [lines] = [block for block in blocks if "search_logged_models" in block]
    lines = lines.replace("sqlite:///runs/quickstart/mlflow.db", uri)
    namespace = {}
    exec(lines.replace('"quickstart"', repr(experiment)), namespace)
    loaded, expected = namespace["detector"].detector, load_detector(folder).detector
    for one, other in zip(loaded.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_checkpoint_with_the_best_metric_is_found_and_loads(
    registry, save, tmp_path, shapes_shards
):
    name = f"checkpoints-{uuid.uuid4().hex[:8]}"
    experiment = registry.create_experiment(name)
    run_id = registry.create_run(experiment).info.run_id
    manifest = read_manifest(shapes_shards)
    log_dataset(registry, run_id, "validation", shapes_shards, manifest)

    def measure(step, value):
        metrics = [Metric("val/segm/AP", value, 1000 + step, step), Metric("loss", 1.0, 1, step)]
        registry.log_batch(run_id, metrics=metrics)

    def ranked():
        return registry.search_logged_models(
            [experiment],
            filter_string="model_type = 'checkpoint'",
            order_by=[{"field_name": "metrics.val/segm/AP", "ascending": False}],
        )

    for step, value in ((10, 0.3), (20, 0.5), (30, 0.4)):
        save(step, step)
        measure(step, value)
        if step != 20:  # the tracker was away then
            record_checkpoints(registry, run_id, str(tmp_path))
    assert [model.name for model in ranked()] == ["step_00000020", "step_00000030", "step_00000010"]
    best = ranked()[0]
    folder = Path(best.tags["checkpoint"])
    run_documented_search(registry.tracking_uri, name, folder)
    assert best.tags["weights_sha256"] == file_sha256(folder / "model.safetensors")
    [metric] = best.metrics
    assert (metric.key, metric.value, metric.step) == ("val/segm/AP", 0.5, 20)
    assert (metric.dataset_name, metric.dataset_digest) == ("validation", manifest.digest[:36])
    assert len(registry.get_metric_history(run_id, "val/segm/AP")) == 3  # not a second time
    # Recorded in the meantime by two processes, deleted, replaced, and half written.
    extra = registry.create_logged_model(
        experiment, "step_00000030", run_id, best.tags | {"step": "30"}, model_type="checkpoint"
    )
    shutil.rmtree(folder)
    save(30, number=7)
    (save(40) / "checksums.json").unlink()
    record_checkpoints(registry, run_id, str(tmp_path))
    assert {model.name for model in ranked()} == {"step_00000010", "step_00000030"}
    replaced = tmp_path / "train" / "step_00000030" / "model.safetensors"
    assert ranked()[0].tags["weights_sha256"] == file_sha256(replaced)
    before = ranked()
    assert extra.model_id not in {model.model_id for model in before}
    stored = checkpoint_models(registry, registry.get_run(run_id))
    assert [model.tags["step"] for model in stored] == ["10", "30"]
    record_checkpoints(registry, run_id, str(tmp_path))
    assert [model.model_id for model in ranked()] == [model.model_id for model in before]
