"""The MLflow model of a registered version: its files, requirements and signature."""

import shutil
import tempfile
import warnings
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, Object, Property

from model.weights.storage import CONFIG_FILE, WEIGHTS_FILE
from model.weights.storage.checksums import write_checksums

SERVED_MODEL = Path(__file__).with_name("served_model.py")
REQUIREMENTS = ("torch", "torchvision", "numpy", "pandas", "maskrcnn-ray")

SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]),
    outputs=Schema(
        [
            ColSpec(Array(Array(DataType.double)), "boxes"),
            ColSpec(Array(DataType.double), "scores"),
            ColSpec(Array(DataType.long), "labels"),
            ColSpec(Array(DataType.long), "category_ids"),
            ColSpec(Array(DataType.string), "category_names"),
            ColSpec(
                Array(
                    Object(
                        [
                            Property("size", Array(DataType.long)),
                            Property("counts", DataType.string),
                        ]
                    )
                ),
                "masks",
            ),
            ColSpec(Array(Array(Array(DataType.double))), "keypoints"),
            ColSpec(Array(DataType.string), "keypoint_names"),
        ]
    ),
    params=ParamSchema([ParamSpec("score_threshold", DataType.double, 0.0)]),
)
"""Inputs, outputs and parameters of a served detector, which MLflow validates."""


def log_model(client: MlflowClient, name: str, folder: Path, run_id: str) -> LoggedModel:
    """Log a detector as an MLflow model of a run, once it has been loaded as a test.

    Args:
        client: client of the tracking store.
        name: name of the model.
        folder: folder with model.safetensors and model.json.
        run_id: the run that produced the detector.
    """
    experiment_id = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(
        experiment_id, name=name, source_run_id=run_id, model_type="detector"
    )
    try:
        with tempfile.TemporaryDirectory(prefix="served-") as scratch:
            path = Path(scratch) / "model"
            detector = Path(scratch) / "detector"
            detector.mkdir()
            for file in (WEIGHTS_FILE, CONFIG_FILE):  # leaves out the optimizer's state
                shutil.copyfile(folder / file, detector / file)
            write_checksums(detector, (WEIGHTS_FILE, CONFIG_FILE))
            with warnings.catch_warnings():
                # The signature is given explicitly; an input example would only repeat it.
                warnings.filterwarnings("ignore", message=".*input example was not provided")
                mlflow.pyfunc.save_model(
                    path=str(path),
                    python_model=str(SERVED_MODEL),
                    artifacts={"detector": str(detector)},
                    signature=SIGNATURE,
                    pip_requirements=[_pinned(name) for name in REQUIREMENTS],
                    mlflow_model=Model(run_id=run_id, model_id=logged.model_id),
                )
            # Load it as a server will: a model that does not load is not registered.
            mlflow.pyfunc.load_model(str(path))
            client.log_model_artifacts(logged.model_id, str(path))
    except BaseException:
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
        raise
    return client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)


def _pinned(name: str) -> str:
    """Return ``name==version``, or the bare name of a package that is run from its source."""
    try:
        return f"{name}=={installed_version(name)}"
    except PackageNotFoundError:
        return name
