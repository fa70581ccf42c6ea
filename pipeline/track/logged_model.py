"""The MLflow model of a registered version: its files, code, requirements and signature.

The model's folder has the code that loads it, in Python without compiled operators, so that a
server needs nothing but packages of PyPI. Where this project's wheel is installed too, the code
finds the compiled operators there.
"""

import contextlib
import io
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version as installed_version
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, Object, Property
from PIL import Image

from model.config import BackboneConfig
from model.weights.storage import CONFIG_FILE, WEIGHTS_FILE
from model.weights.storage.checksums import write_checksums
from model.weights.storage.model_folder import read_saved_config
from pipeline.track.backbone_code import (
    backbone_packages,
    check_in_new_process,
    copy_backbone_code,
)
from pipeline.track.model_contents import check_contents, remove_bytecode

SERVED_MODEL = Path(__file__).with_name("served_model.py")

REQUIREMENTS = (
    *("torch", "numpy", "pandas", "pydantic", "pyyaml", "safetensors", "simplejpeg", "pillow"),
    "mlflow",
)
"""What the code of a served model imports."""

_ROOT = Path(__file__).resolve().parents[2]
# Whole packages: MLflow puts the model's folder of code first on the path, and a part of a package
# there would hide the rest of an installed one.
_CODE = ("model", "ops_cuda")

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
            backbone = read_saved_config(detector)[0].backbone
            with warnings.catch_warnings():
                # MLflow would rather have type hints than our signature.
                warnings.filterwarnings("ignore", message=".*[Tt]ype hint")
                mlflow.pyfunc.save_model(
                    path=str(path),
                    python_model=str(SERVED_MODEL),
                    artifacts={"detector": str(detector)},
                    code_paths=_copy_code(Path(scratch) / "code", backbone),
                    signature=SIGNATURE,
                    input_example=_input_example(),
                    pip_requirements=[
                        _pinned(name) for name in (*REQUIREMENTS, *backbone_packages(backbone))
                    ],
                    mlflow_model=Model(run_id=run_id, model_id=logged.model_id),
                )
            remove_bytecode(path)
            check_contents(path, name)
            # Load it as a server will: a model that does not load is not registered.
            with _unchanged_path():
                mlflow.pyfunc.load_model(str(path))
            if backbone.function is not None:
                check_in_new_process(path)
            remove_bytecode(path)
            client.log_model_artifacts(logged.model_id, str(path))
    except BaseException:
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
        raise
    return client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)


def _copy_code(folder: Path, backbone: BackboneConfig) -> list[str]:
    """Copy the packages that `served_model` imports; return their paths."""
    # Caches of bytecode would run in place of the code.
    ignored = shutil.ignore_patterns("__pycache__", "csrc", "*.so", "*.pyc")
    for package in _CODE:
        shutil.copytree(_ROOT / package, folder / package, ignore=ignored)
    copy_backbone_code(backbone, folder)
    return [str(each) for each in sorted(folder.iterdir())]


def _input_example() -> pd.DataFrame:
    """Return a request: one small gray image, encoded."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 48, 3), 128, np.uint8)).save(buffer, "PNG")
    return pd.DataFrame({"image": [buffer.getvalue()]})


@contextlib.contextmanager
def _unchanged_path() -> Iterator[None]:
    """Undo what MLflow adds to ``sys.path``: a temporary folder of code."""
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before


def _pinned(name: str) -> str:
    """Return ``name==version``, without the local part that only one index has (``+cpu``)."""
    return f"{name}=={installed_version(name).partition('+')[0]}"
