"""The data that passes between the parts of the detector: frozen dataclasses of tensors."""

from model.structures.images import ImageBatch, ImageSize
from model.structures.masks import (
    BitmapMasks,
    InstanceMasks,
    MixedMasks,
    PolygonMasks,
    RunLengthMasks,
)
from model.structures.proposals import Proposals
from model.structures.targets import Category, LossTerm, Targets

__all__ = [
    "BitmapMasks",
    "Category",
    "ImageBatch",
    "ImageSize",
    "InstanceMasks",
    "LossTerm",
    "MixedMasks",
    "PolygonMasks",
    "Proposals",
    "RunLengthMasks",
    "Targets",
]
