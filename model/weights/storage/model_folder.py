"""Our own format: a folder with ``model.safetensors`` and ``model.json``."""

import json
import shutil
from pathlib import Path

from pydantic import ValidationError
from safetensors.torch import save_file

from model.config import ModelConfig
from model.detector import Detector
from model.structures import Category
from model.weights.report import WeightsError
from model.weights.storage import CONFIG_FILE, WEIGHTS_FILE

FORMAT = 2


def save_detector(detector: Detector, folder: str | Path) -> None:
    """Write model.safetensors and model.json (format, config, categories) into ``folder``."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
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
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    except (json.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        raise WeightsError(f"{path} is not the config of a detector: {error}") from error
    return config, categories
