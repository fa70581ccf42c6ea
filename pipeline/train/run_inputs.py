"""Record in MLflow what a training is given: its datasets, and a sheet of augmented samples."""

import logging
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient

from pipeline.config import RunConfig
from pipeline.draw import encode_png
from pipeline.explore.samples import draw_samples
from pipeline.shards.manifest import Manifest, read_manifest
from pipeline.track.dataset_inputs import log_dataset
from pipeline.track.mlflow_run import TrackedRun

logger = logging.getLogger(__name__)

_LONGEST_WAIT_S = 30.0


@contextmanager
def recorded_inputs(
    run: TrackedRun,
    config: RunConfig,
    manifest: Manifest,
    train_shards: str,
    val_shards: str | None,
) -> Iterator[None]:
    """Record the inputs in a thread, while the training in the ``with`` block starts and runs.

    The samples are those of the first steps, as the workers see them. Errors are logged.

    Args:
        run: the run.
        config: the job's settings.
        manifest: of the training shards.
        train_shards: URL of the training shards.
        val_shards: URL of the validation shards, if there are any.
    """

    def record() -> None:
        try:
            client = MlflowClient(tracking_uri=run.uri)
            log_dataset(client, run.run_id, "training", train_shards, manifest)
            if val_shards is not None:
                validation = read_manifest(val_shards)
                log_dataset(client, run.run_id, "validation", val_shards, validation)
            if config.track.sample_images:
                _upload_samples(run, config, manifest, train_shards)
        except Exception as error:  # must not end a training
            logger.warning("MLflow run %s lacks its inputs: %s", run.run_id, error)

    thread = threading.Thread(target=record, name="run-inputs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(_LONGEST_WAIT_S)


def _upload_samples(
    run: TrackedRun, config: RunConfig, manifest: Manifest, train_shards: str
) -> None:
    explore = config.explore.model_copy(
        update={"first_step": 0, "samples": config.track.sample_images}
    )
    drawn = config.model_copy(update={"explore": explore})
    sheet = draw_samples(drawn, manifest, train_shards)
    with tempfile.TemporaryDirectory(prefix="samples-") as scratch:
        path = Path(scratch) / "training_samples.png"
        path.write_bytes(encode_png(sheet.image))
        run.artifacts.file(path)
