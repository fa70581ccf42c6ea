"""Reading weights of any library, from a path or the web, under our names."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from model.config import ModelConfig
from model.weights.conversion import OUR_ECOSYSTEM, ConvertedWeights
from model.weights.detectron.convert import convert_detectron, is_detectron
from model.weights.detectron2.convert import convert_detectron2, is_detectron2
from model.weights.maskrcnn_benchmark.convert import (
    convert_maskrcnn_benchmark,
    is_maskrcnn_benchmark,
)
from model.weights.mmdetection.convert import convert_mmdetection, is_mmdetection
from model.weights.report import WeightsError
from model.weights.storage import CONFIG_FILE, WEIGHTS_FILE
from model.weights.storage.checksums import verify_checksums
from model.weights.storage.download import fetch_weights
from model.weights.storage.model_folder import find_model_folder, read_saved_config
from model.weights.storage.weights_file import StoredWeights, read_weights_file
from model.weights.torchvision.convert import (
    convert_torchvision,
    convert_torchvision_backbone,
    is_torchvision_backbone,
    is_torchvision_detector,
)

_LOG = logging.getLogger(__name__)

_Recognize = Callable[[StoredWeights], bool]
_Convert = Callable[[StoredWeights, ModelConfig], ConvertedWeights]

# The first that recognizes a file converts it.
_CONVERTERS: tuple[tuple[_Recognize, _Convert], ...] = (
    (is_maskrcnn_benchmark, convert_maskrcnn_benchmark),
    (is_detectron2, convert_detectron2),
    (is_detectron, convert_detectron),
    (is_mmdetection, convert_mmdetection),
    (is_torchvision_detector, convert_torchvision),
    (is_torchvision_backbone, convert_torchvision_backbone),
)


def read_weights(source: str | Path, config: ModelConfig | None = None) -> ConvertedWeights:
    """Read weights under our names, with all that is known about their detector.

    Args:
        source: a folder that ``save_detector`` wrote, the folder of a run (for its newest
            checkpoint), a weights file, or its ``https://`` address.
        config: settings that cannot be inferred from weights of other libraries; what it states
            replaces the library's conventions.

    Raises:
        WeightsError: they cannot be read, are damaged, or their model is not supported.
    """
    path = fetch_weights(source)
    if path.is_dir() and (found := find_model_folder(path)) != path:
        _LOG.info("%s: loading its checkpoint %s", path, found.relative_to(path))
        path = found
    folder = path if path.is_dir() else path.parent
    file = folder / WEIGHTS_FILE if path.is_dir() else path
    has_config = path.is_dir() or (path.name == WEIGHTS_FILE and (folder / CONFIG_FILE).exists())
    verify_checksums(folder, (file.name, CONFIG_FILE) if has_config else (file.name,))
    stored = read_weights_file(file)
    weights = _convert(stored, path, folder if has_config else None, config)
    if stored.averaged:
        note = "the file has averaged weights (EMA) beside others; the averaged ones are used"
        weights = replace(weights, assumptions=(*weights.assumptions, note))
    return weights


def _convert(
    stored: StoredWeights, path: Path, folder: Path | None, config: ModelConfig | None
) -> ConvertedWeights:
    """Return weights under our names.

    Args:
        stored: the content of the file.
        path: names it in errors.
        folder: with the config that was saved with the weights; None if there is none.
        config: as for `read_weights`.
    """
    for recognizes, convert in _CONVERTERS:
        if recognizes(stored):
            try:
                return convert(stored, config or ModelConfig())
            except WeightsError as error:
                raise type(error)(f"{path}: {error}") from error
    if folder is not None:
        own_config, categories = read_saved_config(folder)
        return ConvertedWeights(
            OUR_ECOSYSTEM,
            stored.tensors,
            conventions=own_config.conventions,
            config=own_config,
            categories=categories,
        )
    return ConvertedWeights(OUR_ECOSYSTEM, stored.tensors)
