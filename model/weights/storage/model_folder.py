"""Our own format: a folder with ``model.safetensors``, ``model.json`` and ``checksums.json``."""

import json
import re
import shutil
from pathlib import Path

from pydantic import ValidationError
from safetensors.torch import save_file

from model.config import ModelConfig
from model.detector import Detector
from model.structures import Category
from model.weights.report import WeightsError
from model.weights.storage import CONFIG_FILE, WEIGHTS_FILE
from model.weights.storage.checksums import CHECKSUMS_FILE, write_checksums

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


def find_model_folder(folder: Path) -> Path:
    """Return the folder with a model's files: ``folder``, or the newest checkpoint of its run.

    Args:
        folder: a model's folder, the folder of a run, or the folder ``train`` of a run.

    Raises:
        WeightsError: there is neither.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return folder
    checkpoints = {
        step: path
        for path in (*folder.glob("train/*"), *folder.glob("*"))
        if (step := checkpoint_step(path.name)) is not None
        and (path / WEIGHTS_FILE).is_file()
        and (path / CONFIG_FILE).is_file()
    }
    if not checkpoints:
        raise WeightsError(
            f"{folder} has neither {WEIGHTS_FILE} nor a checkpoint (step_*, train/step_*) with "
            f"{WEIGHTS_FILE} and {CONFIG_FILE}; pass the folder of a model, or a weights file"
        )
    return checkpoints[max(checkpoints)]


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
