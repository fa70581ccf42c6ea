"""Mask R-CNN on a feature pyramid: build it, train it, load it, predict with it."""

from model.config import ModelConfig
from model.detections import Detections
from model.detector import Detector, build_detector
from model.structures import Category
from model.weights import load_detector, save_detector

__all__ = [
    "Category",
    "Detections",
    "Detector",
    "ModelConfig",
    "build_detector",
    "load_detector",
    "save_detector",
]
