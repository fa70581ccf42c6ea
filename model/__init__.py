"""Mask R-CNN and its relatives: build a detector, train it, load it, predict with it."""

from typing import TYPE_CHECKING

from model.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from model.build import build_detector
    from model.config import ModelConfig
    from model.detections import Detections
    from model.detector import Detector
    from model.inference.predictor import Predictor, load_detector
    from model.structures import Category
    from model.weights import save_detector
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "model.build": ["build_detector"],
            "model.config": ["ModelConfig"],
            "model.detections": ["Detections"],
            "model.detector": ["Detector"],
            "model.inference.predictor": ["Predictor", "load_detector"],
            "model.structures": ["Category"],
            "model.weights": ["save_detector"],
        },
    )

__all__ = [
    "Category",
    "Detections",
    "Detector",
    "ModelConfig",
    "Predictor",
    "build_detector",
    "load_detector",
    "save_detector",
]
