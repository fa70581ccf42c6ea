"""Trainings through Ray Train that end with an error, and what it says."""

import json

import pytest
import ray.train

from model.weights import load_network
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.storage.exclusive_use import FolderInUseError, exclusive_use
from pipeline.train.driver import run_training
from pipeline.train.failures import TrainingError
from pipeline.train.nan_batch import load_batches
from tests.pipeline.train.driver_runs import (
    MODEL,
    make_config,
)

pytestmark = pytest.mark.ray


def test_nan_stops_the_run_and_writes_the_image_ids(shards, tmp_path):
    config = make_config(tmp_path, shards, workers=1, lr=1e30, checkpoint_every=1)
    with pytest.raises(TrainingError, match="NaN or infinite"):
        run_training(config)
    train = tmp_path / "train"
    report = json.loads((train / "nan_batch.json").read_text())
    assert len(report["image_ids"]) == 4
    assert report["step"] >= 1
    # As docs/TROUBLESHOOTING.md says: the batch and the weights before that step give the NaN.
    detector = load_network(train / f"step_{report['step']:08d}").train()
    [batch] = load_batches(train / "nan_batch.safetensors")
    assert list(batch.targets.image_ids) == report["image_ids"]
    terms = detector(batch.images, batch.targets)
    assert not all(term.total.isfinite() for term in terms.values())


def test_more_workers_than_fit_on_the_machine_are_refused(shards, tmp_path):
    with pytest.raises(TrainingError, match="need 4 CPUs, but this machine has 2"):
        run_training(make_config(tmp_path, shards, workers=4))


def test_a_wrong_number_of_classes_is_refused_before_anything_starts(shards, tmp_path):
    config = make_config(tmp_path, shards)
    wrong = config.model_copy(update={"model": RunConfig().model})
    with pytest.raises(TrainingError, match=r"set model\.num_classes=5"):
        run_training(wrong)
    assert not storage.exists(str(tmp_path / "train" / "run.json"))


def test_a_second_training_in_the_same_output_is_refused(shards, tmp_path):
    with (
        exclusive_use(str(tmp_path / "train"), "training"),
        pytest.raises(FolderInUseError, match="is in use by another job"),
    ):
        run_training(make_config(tmp_path, shards))
    assert not storage.exists(str(tmp_path / "train" / "run.json"))


class CountFailures(ray.train.UserCallback):
    """Append a line to ``file`` for each failed attempt."""

    def __init__(self, file):
        self.file = file

    def after_exception(self, run_context, worker_exceptions):
        with self.file.open("a") as lines:
            lines.write(f"{worker_exceptions}\n")


def failed_attempts(config, file, message):
    with pytest.raises(TrainingError, match=message):
        run_training(config, callbacks=[CountFailures(file)])
    return len(file.read_text().splitlines())


def test_an_error_that_a_retry_would_repeat_ends_the_training_at_once(finished, shards, tmp_path):
    _, result = finished
    config = make_config(tmp_path, shards, weights=result.checkpoint_url, max_failures=2)
    deeper_mask_head = {**MODEL, "mask": {"channels": 16, "layers": 2}}
    config = RunConfig.model_validate({**config.model_dump(), "model": deeper_mask_head})
    message = r"training failed on worker \d: WeightsError: .*roi_heads.mask"
    assert failed_attempts(config, tmp_path / "failures", message) == 1


def test_too_little_memory_ends_the_training_at_once_and_says_what_to_lower(shards, tmp_path):
    config = make_config(tmp_path, shards, workers=1, max_failures=2)
    # More than the address space of a process can hold, so nothing is allocated.
    impossible = {**MODEL, "box": {**MODEL["box"], "hidden": 2**45}}
    config = RunConfig.model_validate({**config.model_dump(), "model": impossible})
    message = r"^training failed on worker 0: out of memory on cpu .*lower train\.global_batch.*$"
    assert failed_attempts(config, tmp_path / "failures", message) == 1


def frozen_norms(config, **train):
    """Return the config with frozen norms in its backbone."""
    tree = config.model_dump()
    tree["model"]["backbone"]["norm"] = "frozen_bn"
    return RunConfig.model_validate({**tree, "train": {**tree["train"], **train}})


def test_frozen_norms_without_weights_are_refused_before_anything_starts(shards, tmp_path):
    with pytest.raises(TrainingError, match=r"frozen_bn but train\.weights is not set.*Set train"):
        run_training(frozen_norms(make_config(tmp_path, shards)))
    assert not storage.exists(str(tmp_path / "train" / "run.json"))


@pytest.mark.soak
def test_frozen_norms_with_weights_train_and_resume_without_them(finished, shards, tmp_path):
    _, result = finished
    patterns = {"allow_missing": ["*"], "allow_unused": ["*"]}  # those weights have other norms
    config = frozen_norms(
        make_config(tmp_path, shards, workers=1, steps=2),
        weights=result.checkpoint_url,
        **patterns,
    )
    assert run_training(config).steps == 2
    schedule = {**config.train.schedule.model_dump(), "steps": 3}
    assert run_training(frozen_norms(config, weights=None, schedule=schedule)).steps == 3
