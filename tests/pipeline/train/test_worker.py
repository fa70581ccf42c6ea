"""How a worker resumes; needs no cluster."""

import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from pipeline.config import RunConfig
from pipeline.stream.training_stream import open_local_stream
from pipeline.train import worker
from pipeline.train.metric_recorder import MetricRecorder
from pipeline.train.nan_batch import load_batches
from pipeline.train.non_finite import NonFiniteLossError, SkippedStepsError


def test_a_downloaded_checkpoint_is_read_when_every_worker_has_it(monkeypatch, tmp_path):
    """Ray lets a worker that comes later write into the folder that the others read."""
    events = []

    @contextmanager
    def as_directory():
        events.append("downloaded")
        yield str(tmp_path)
        events.append("released")

    checkpoint = SimpleNamespace(path="bucket/train/step_00000002", as_directory=as_directory)
    patches = {
        "list_checkpoints": lambda output: ["step_00000002"],
        "reported_checkpoint": lambda url: checkpoint,
        "gather_objects": lambda value: events.append("all workers") or [value],
        "verify_checkpoint": lambda folder, shown: events.append("read"),
        "resume_training_state": lambda *arguments: events.append("read"),
    }
    for name, replacement in patches.items():
        monkeypatch.setattr(worker, name, replacement)
    one = object.__new__(worker._Worker)
    one.task = SimpleNamespace(config=RunConfig(output=str(tmp_path)), categories=())
    one.place = SimpleNamespace(rank=0, device="cpu")
    one._build_state()
    assert events == ["all workers", "downloaded", "all workers", "read", "read", "released"]


def make_worker(config, shards, folder):
    one = object.__new__(worker._Worker)
    one.task = SimpleNamespace(
        config=config,
        train_shards=shards,
        nan_report=str(folder / "nan_batch.json"),
        nan_batch=str(folder / "nan_batch.safetensors"),
    )
    one.place = SimpleNamespace(rank=0, world_size=1, device="cpu")
    one.state = SimpleNamespace(start_step=0, loaded_from=None)
    one.recorder = MetricRecorder(None)
    one.skipped_steps, one.last_skipped = 0, None
    return one


def test_too_many_skipped_steps_name_the_images_of_the_last_and_only_files_that_are_there(
    run_config, shapes_shards, tmp_path
):
    train = run_config.train.model_copy(update={"global_batch": 2})
    config = run_config.model_copy(update={"train": train})
    with open_local_stream(config, shapes_shards, 0, 1, 7, 8) as stream:
        ids = next(iter(stream)).targets.image_ids
    end = SkippedStepsError(7, limit=2, with_loss_scale=False)
    one = make_worker(config, shapes_shards, tmp_path)
    one._log_skipped(NonFiniteLossError(6, (0,), "gradient"))
    one._log_skipped(NonFiniteLossError(7, ids, "gradient"))
    message = one._explain_not_finite(end)
    report = json.loads((tmp_path / "nan_batch.json").read_text())
    assert (report["step"], report["image_ids"]) == (7, list(ids))
    assert message.endswith(f"{one.task.nan_report}, the batch in {one.task.nan_batch}.")
    assert load_batches(one.task.nan_batch)[0].targets.image_ids == ids
    # The batch cannot be drawn again.
    one.task.train_shards = str(tmp_path / "gone")
    Path(one.task.nan_batch).unlink()
    message = one._explain_not_finite(end)
    assert message.endswith(f"Step and image ids are in {one.task.nan_report}.")
    # The loss scale of fp16: nothing tells which images it was.
    scaled = make_worker(config, shapes_shards, tmp_path)
    message = scaled._explain_not_finite(SkippedStepsError(27, limit=27, with_loss_scale=True))
    assert message.endswith(f"The step is in {one.task.nan_report}.")
