"""The kept checkpoints of a training as MLflow's logged models, with the metrics of their step.

A logged model points at the checkpoint in the output folder; nothing is uploaded. Which ones there
should be follows from the folder alone, so recording them is repeated after each checkpoint, after
a failure, or by a later process, and corrects what it finds: a checkpoint that was deleted or
replaced loses its logged model.
"""

import functools
import logging
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

from model.weights.storage import WEIGHTS_FILE
from model.weights.storage.checksums import CHECKSUMS_FILE
from model.weights.storage.model_folder import checkpoint_step
from pipeline import storage
from pipeline.output_layout import TRAINING_FOLDER
from pipeline.storage.records import parse_record
from pipeline.track.checkpoint_metrics import link_metrics

logger = logging.getLogger(__name__)

MODEL_TYPE = "checkpoint"
URL_TAG, STEP_TAG, SHA256_TAG = "checkpoint", "step", "weights_sha256"


@dataclass(frozen=True)
class StoredCheckpoint:
    """A complete checkpoint in an output folder.

    Args:
        url: its folder.
        step: optimizer steps taken.
        sha256: SHA-256 of its weights (hex).
    """

    url: str
    step: int
    sha256: str

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.url.rpartition("/")[2]


def record_checkpoints(client: MlflowClient, run_id: str, output: str) -> None:
    """Make the logged models of a training's run those of the checkpoints in its output folder.

    Their metrics are those of the validation after the same step (in ``best.json``), linked to its
    dataset.

    Args:
        client: client of the tracking store.
        run_id: the run of the training.
        output: its output folder.

    Raises:
        MlflowException: the tracker cannot be reached. One older than MLflow 3, which has no logged
            models, is named once in the log.
        StorageError: the output folder cannot be read.
    """
    run = client.get_run(run_id)
    try:
        recorded = checkpoint_models(client, run)
    except MlflowException as error:
        if error.error_code != "ENDPOINT_NOT_FOUND":
            raise
        _say_unsupported(run_id)
        return
    present = {each.step: each for each in stored_checkpoints(output)}
    models: dict[int, LoggedModel] = {}
    for model in recorded:
        step = int(model.tags[STEP_TAG])
        if step in models or not _is_of(model, present.get(step)):
            client.delete_logged_model(model.model_id)
        else:
            models[step] = model
    for step in sorted(present.keys() - models.keys()):
        models[step] = _create(client, run, present[step])
    link_metrics(client, run, output, models)


def stored_checkpoints(output: str) -> list[StoredCheckpoint]:
    """Return the complete checkpoints of an output folder that have checksums, oldest first."""
    training = storage.join(output, TRAINING_FOLDER)
    found = []
    for file in storage.list_files(training, (CHECKSUMS_FILE,)):
        url = file.removesuffix(f"/{CHECKSUMS_FILE}")
        step = checkpoint_step(url[len(training) :].strip("/"))
        if step is None:
            continue
        try:
            record = parse_record(storage.read_json(file), _Checksums, file, "")
            found.append(StoredCheckpoint(url, step, str(record.files[WEIGHTS_FILE]["sha256"])))
        except (storage.MissingFileError, storage.DamagedRecordError, KeyError, TypeError):
            continue  # being deleted, or damaged: the training that resumes says so
    return found


def checkpoint_models(client: MlflowClient, run: Run) -> list[LoggedModel]:
    """Return the logged models of the checkpoints of a run, oldest first."""
    models: list[LoggedModel] = []
    token: str | None = None
    while True:
        page = client.search_logged_models(
            [run.info.experiment_id],
            filter_string=(f"source_run_id = '{run.info.run_id}' AND model_type = '{MODEL_TYPE}'"),
            order_by=[{"field_name": "creation_timestamp", "ascending": True}],
            page_token=token,
        )
        models += page
        token = page.token
        if not token:
            return models


@dataclass(frozen=True)
class _Checksums:
    files: dict[str, dict[str, str | int]]


def _is_of(model: LoggedModel, checkpoint: StoredCheckpoint | None) -> bool:
    """Return whether a logged model describes a checkpoint that is there."""
    if checkpoint is None or model.status != LoggedModelStatus.READY:
        return False  # deleted, or recorded by a process that was killed meanwhile
    recorded = (model.tags.get(URL_TAG), model.tags.get(SHA256_TAG))
    return recorded == (checkpoint.url, checkpoint.sha256)


def _create(client: MlflowClient, run: Run, checkpoint: StoredCheckpoint) -> LoggedModel:
    """Create the logged model of a checkpoint, as an output of its run at its step."""
    model = client.create_logged_model(
        run.info.experiment_id,
        name=checkpoint.name,
        source_run_id=run.info.run_id,
        model_type=MODEL_TYPE,
        tags={
            MLFLOW_MODEL_IS_EXTERNAL: "true",
            URL_TAG: checkpoint.url,
            STEP_TAG: str(checkpoint.step),
            SHA256_TAG: checkpoint.sha256,
        },
    )
    output = LoggedModelOutput(model.model_id, checkpoint.step)
    client.log_outputs(run.info.run_id, [output])
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


@functools.cache  # once for each run of a process
def _say_unsupported(run_id: str) -> None:
    logger.warning(
        "the tracker of MLflow run %s is older than MLflow 3 and has no logged models, so the "
        "checkpoints are not recorded there; set track.log_checkpoints=false, or update it",
        run_id,
    )
