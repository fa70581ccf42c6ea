"""Our own format: a folder with ``model.safetensors``, ``model.json`` and ``checksums.json``."""

import json
import logging
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from pydantic import ValidationError
from safetensors.torch import save_file

from model.config import ModelConfig
from model.detector import Detector
from model.structures import Category
from model.weights.report import WeightsError
from model.weights.storage import BEST_FILE, CONFIG_FILE, WEIGHTS_FILE
from model.weights.storage.checksums import CHECKSUMS_FILE, write_checksums

logger = logging.getLogger(__name__)

FORMAT = 2


def save_detector(detector: Detector, folder: str | Path) -> None:
    """Write a detector into ``folder``, which is created if need be.

    The files are model.safetensors, model.json (format, config, categories) and checksums.json.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    (target / CHECKSUMS_FILE).unlink(missing_ok=True)
    # safetensors refuses other memory layouts than contiguous, such as channels_last.
    tensors = {name: tensor.contiguous() for name, tensor in detector.state_dict().items()}
    save_file(tensors, target / WEIGHTS_FILE)
    content = {
        "format": FORMAT,
        "config": detector.config.model_dump(mode="json"),
        "categories": [category._asdict() for category in detector.categories],
    }
    (target / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n")
    # safetensors makes files that only their owner can read; on a shared disk others run the model.
    shutil.copymode(target / CONFIG_FILE, target / WEIGHTS_FILE)
    write_checksums(target, (WEIGHTS_FILE, CONFIG_FILE))


def checkpoint_step(name: str) -> int | None:
    """Return the step of a checkpoint's folder (``step_00000900``); None for any other name."""
    match = re.fullmatch(r"step_(\d+)", name, re.ASCII)
    return int(match[1]) if match else None


def checkpoint_to_use(steps: Collection[int], best: bytes | None, shown: str) -> int:
    """Return the step of the checkpoint of a training that others use: the best or the newest.

    Args:
        steps: steps of the complete checkpoints; not empty.
        best: content of the training's ``best.json``, if there is one.
        shown: how a log line names that file.
    """
    newest = max(steps)
    if best is None:
        return newest
    try:
        name = json.loads(best)["checkpoint"]
        step = newest if name is None else checkpoint_step(name)
    except (ValueError, LookupError, TypeError, RecursionError):
        step = None
    if step is None or step not in steps:
        logger.warning("%s names no checkpoint that is there; using the newest instead", shown)
        return newest
    return step


def find_model_folder(folder: Path) -> Path:
    """Return the folder with a model's files: ``folder``, or a checkpoint of its training.

    That is the best checkpoint if the training has named one, else the newest.

    Args:
        folder: a model's folder, the folder of a run, or the folder ``train`` of a run.

    Raises:
        WeightsError: there is neither.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return folder
    for training in (folder, folder / "train"):
        checkpoints = {
            step: path
            for path in training.glob("*")
            if (step := checkpoint_step(path.name)) is not None
            and (path / WEIGHTS_FILE).is_file()
            and (path / CONFIG_FILE).is_file()
        }
        if checkpoints:
            file = training / BEST_FILE
            best = file.read_bytes() if file.is_file() else None
            return checkpoints[checkpoint_to_use(checkpoints, best, str(file))]
    raise WeightsError(
        f"{folder} has neither {WEIGHTS_FILE} nor a checkpoint (step_*, train/step_*) with "
        f"{WEIGHTS_FILE} and {CONFIG_FILE}; pass the folder of a model, or a weights file"
    )


def read_saved_config(folder: Path) -> tuple[ModelConfig, tuple[Category, ...]]:
    """Read the config and categories that :func:`save_detector` wrote.

    Raises:
        WeightsError: the file is missing, damaged or of another format.
    """
    path = folder / CONFIG_FILE
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise WeightsError(
                f"{path} has format {content['format']}; this version reads {FORMAT}"
            )
        config = ModelConfig.model_validate(content["config"])
        categories = tuple(Category(**category) for category in content["categories"])
    except FileNotFoundError:
        raise WeightsError(
            f"{path} is missing; it states the architecture and the classes. Copy it from where "
            f"the weights come from, or load {WEIGHTS_FILE} itself and pass config="
        ) from None
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        first = ".".join(str(part) for part in problems[0]["loc"])
        raise WeightsError(
            f"{path} is damaged or not the config of a detector: {first}: {problems[0]['msg']}"
        ) from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise WeightsError(
            f"{path} is damaged or not the config of a detector: {type(error).__name__}: {error}"
        ) from error
    return config, categories
