"""A single worker on this machine needs no Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.config import InferConfig
from pipeline.infer.cluster_use import count_replicas, needs_cluster

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("workers", "address", "expected"),
    [
        (1, None, False),
        (1, "", False),
        (1, "local", False),
        (1, "10.0.0.1:6379", True),
        (1, "auto", True),
        (2, None, True),
        ("auto", "10.0.0.1:6379", True),
    ],
)
def test_several_workers_or_a_named_cluster_need_ray(monkeypatch, workers, address, expected):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert needs_cluster(workers) == expected


@pytest.mark.parametrize(("gpus", "expected"), [(0, False), (1, False), (2, True)])
def test_by_default_several_gpus_of_this_machine_need_ray(monkeypatch, gpus, expected):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert needs_cluster(InferConfig().workers) == expected


@pytest.mark.parametrize(
    ("workers", "resources", "expected"),
    [("auto", {"CPU": 64.0, "GPU": 8.0}, 8), ("auto", {"CPU": 64.0}, 1), (3, {"GPU": 8.0}, 3)],
)
def test_by_default_there_is_a_replica_for_each_gpu_of_the_cluster(workers, resources, expected):
    assert count_replicas(workers, resources) == expected


def test_the_job_predicts_without_ray_on_images_of_any_name(
    shapes_images, tiny_checkpoint, tmp_path
):
    inputs = tmp_path / "my images"
    inputs.mkdir()
    for name in ("a b.jpg", "c%20#?.jpg", "ü.jpg"):
        (inputs / name).write_bytes(next(shapes_images[1].iterdir()).read_bytes())
    (inputs / "broken.png").write_bytes(b"no image")
    (inputs / "notes.txt").write_text("no image")
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    settings = [
        *(f"infer.inputs={inputs}", f"infer.model={tiny_checkpoint}", "infer.images_per_shard=3"),
        f"output={tmp_path / 'run'}",
    ]
    job = subprocess.run(
        [sys.executable, "workflows/infer_batch.py", "configs/quickstart.yaml", *settings],
        env=environment | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert job.returncode == 0, job.stderr
    assert "starting Ray" not in job.stderr
    summary = json.loads((tmp_path / "run" / "predictions" / "summary.json").read_text())
    assert (summary["images"], summary["failed"], summary["shards_done"]) == (4, 1, 2)
    assert summary["skipped_files"] == {".txt": 1}
    assert "no images   1 .txt" in job.stdout
