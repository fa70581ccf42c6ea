"""What the folder of a registered model may hold: tensors, JSON, text and our code, but no pickle.

A pickle runs code when it is loaded. MLflow loads the files that ``MLmodel`` names, so a file that
somebody adds, or an ``MLmodel`` that somebody changes, must be refused before that.
"""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import yaml

from pipeline.track.mlflow_store import TrackingError

MLMODEL = "MLmodel"
_LOADER = "mlflow.pyfunc.loaders.code_model"
_SUFFIXES = (
    *(".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".dill", ".cloudpickle"),
    *(".npy", ".npz", ".h5", ".pyc", ".so"),
)
_PROTOCOLS = (2, 3, 4, 5)  # the second byte of a binary pickle


class UnsafeModelError(TrackingError):
    """The folder of a model holds a file that could run code; the message names it."""


def check_contents(folder: Path, shown: str) -> None:
    """Check the files of a model's folder.

    Args:
        folder: the folder that MLflow would load.
        shown: how the message names the model.

    Raises:
        UnsafeModelError: a file is a pickle, or MLflow would load one.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (why := _reason_to_refuse(path)):
            raise UnsafeModelError(
                f"{shown} holds {path.relative_to(folder).as_posix()}, {why}; a registered model "
                "has tensors, JSON and code only. Somebody added it: register the checkpoint again"
            )
    for path in sorted(folder.rglob(MLMODEL)):
        _check_mlmodel(path, shown)


def remove_bytecode(folder: Path) -> None:
    """Delete the ``__pycache__`` folders that Python writes beside code that it imports.

    They are no part of a model, but Python would run them in place of the code that is reviewed.
    MLflow writes them where it loads a model: when we try the one that is registered, and into a
    local artifact store.

    Args:
        folder: a copy of the model's folder.
    """
    for cache in sorted(folder.rglob("__pycache__")):
        if cache.is_dir() and not cache.is_symlink():
            shutil.rmtree(cache)


def _reason_to_refuse(path: Path) -> str | None:
    if path.suffix.lower() in _SUFFIXES:
        return f"a {path.suffix} file"
    with path.open("rb") as file:
        head = file.read(4)
    if len(head) >= 2 and head[0] == 0x80 and head[1] in _PROTOCOLS:
        return "a pickle"
    if head[:2] == b"PK" and zipfile.is_zipfile(path):
        return "an archive"
    return None


def _check_mlmodel(path: Path, shown: str) -> None:
    """Refuse flavors and loaders that would unpickle something or import other code."""
    try:
        document: Any = yaml.safe_load(path.read_text())
        flavors = dict(document["flavors"])
        function = dict(flavors.pop("python_function"))
    except (yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        raise UnsafeModelError(
            f"{shown}: {MLMODEL} is damaged ({type(error).__name__}); register the checkpoint again"
        ) from error
    if flavors or function.get("loader_module") != _LOADER or "python_model" in function:
        what = ", ".join([*flavors, str(function.get("loader_module"))])
        raise UnsafeModelError(
            f"{shown}: {MLMODEL} was changed to load something else ({what}); register the "
            "checkpoint again"
        )
