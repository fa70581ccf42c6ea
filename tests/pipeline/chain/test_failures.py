"""Only errors that may go away by themselves are tried again; each is one line."""

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from ray.exceptions import NodeDiedError, RayTaskError, WorkerCrashedError
from sqlalchemy.exc import IntegrityError, OperationalError

from model.config.settings import ConfigError
from model.weights import WeightsError
from pipeline.chain.failures import StageError, StageFailure, describe_failure
from pipeline.storage.exclusive_use import FolderInUseError
from pipeline.storage.retries import DamagedRecordError, MissingFileError, StorageError
from pipeline.track.mlflow_store import TrackingError
from pipeline.train.failures import TrainingError


def caused(error, cause):
    error.__cause__ = cause
    return error


UNAVAILABLE = RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "timed out"})
REFUSED = requests.ConnectionError("HTTPConnectionPool: Connection refused")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (WorkerCrashedError(), "transient"),
        (NodeDiedError("the node died"), "transient"),
        (ConnectionResetError("Connection reset by peer"), "transient"),
        (TimeoutError(), "transient"),
        (StorageError("s3://b/k: AWS Error: timed out. Check AWS_ENDPOINT_URL"), "transient"),
        (caused(TrackingError("MLflow cannot record the run"), REFUSED), "transient"),
        (UNAVAILABLE, "transient"),
        (OperationalError("SELECT", {}, Exception("server closed the connection")), "transient"),
        (OperationalError("SELECT", {}, Exception("no such table: runs")), "lasting"),
        (IntegrityError("INSERT", {}, Exception("duplicate")), "lasting"),
        (MlflowException("no such model", error_code=2), "lasting"),
        (TrackingError("there is no model x"), "lasting"),
        (TrainingError("the loss is NaN"), "lasting"),
        (MissingFileError("/a: no such file"), "lasting"),
        (DamagedRecordError("/a is damaged"), "lasting"),
        (StorageError("/a: [Errno 28] No space left on device. Check free space."), "lasting"),
        (WeightsError("damaged"), "lasting"),
        (ZeroDivisionError("division by zero"), "lasting"),
        (MemoryError(), "lasting"),
        (ConfigError(["train.weights: /x does not exist"]), "settings"),
        (FolderInUseError("train is in use by another job"), "in_use"),
    ],
)
def test_the_kind_of_an_error(error, kind):
    assert describe_failure(error).kind == kind


def test_an_error_inside_a_ray_task_is_the_one_that_counts():
    for cause, kind in ((ConnectionResetError("reset"), "transient"), (ValueError("x"), "lasting")):
        wrapped = RayTaskError("f", "traceback\nmany lines", cause)
        assert describe_failure(wrapped) == StageFailure(kind, f"{type(cause).__name__}: {cause}")


def test_a_failed_stage_is_one_line_with_its_name_and_its_log():
    failure = describe_failure(ConfigError(["a: wrong", "b: wrong too"]))
    line = str(StageError("train", failure, "/out/stages/train/log.txt"))
    assert line == (
        "stage train failed: 2 settings are wrong: a: wrong b: wrong too "
        "(log: /out/stages/train/log.txt)"
    )
