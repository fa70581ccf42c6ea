"""Weights from wherever they are and whoever wrote them, under our names."""

from pathlib import Path

from model.config import ModelConfig
from model.weights.conversion import Conversion
from model.weights.detectron.convert import convert_detectron, is_detectron
from model.weights.detectron2.convert import convert_detectron2, is_detectron2
from model.weights.maskrcnn_benchmark.convert import (
    convert_maskrcnn_benchmark,
    is_maskrcnn_benchmark,
)
from model.weights.report import WeightsError
from model.weights.storage.download import local_path
from model.weights.storage.files import DESCRIPTION, TENSORS, read_description, read_weights
from model.weights.torchvision.convert import (
    convert_torchvision,
    convert_torchvision_backbone,
    is_torchvision_backbone,
    is_torchvision_detector,
)


def read_source(source: str | Path, config: ModelConfig | None = None) -> Conversion:
    """Weights under our names, with what they say of their detector.

    Args:
        source: a folder that ``save_detector`` wrote, a weights file, or its ``https://`` address.
        config: what the weights cannot tell; its stated conventions overrule theirs.

    Raises:
        WeightsError: they cannot be read, or are of a model that we do not build.
    """
    path = local_path(source)
    stored = read_weights(path / TENSORS if path.is_dir() else path)
    base = config or ModelConfig()
    try:
        if is_maskrcnn_benchmark(stored):
            return convert_maskrcnn_benchmark(stored, base)
        if is_detectron2(stored):
            return convert_detectron2(stored, base)
        if is_detectron(stored):
            return convert_detectron(stored, base)
        if is_torchvision_detector(stored.tensors):
            return convert_torchvision(stored, base)
        if is_torchvision_backbone(stored.tensors):
            return convert_torchvision_backbone(stored, base)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or (path.name == TENSORS and (folder / DESCRIPTION).exists()):
        own_config, categories = read_description(folder)
        return Conversion(
            "maskrcnn-ray",
            stored.tensors,
            conventions=own_config.conventions,
            config=own_config,
            categories=categories,
        )
    return Conversion("maskrcnn-ray", stored.tensors)
