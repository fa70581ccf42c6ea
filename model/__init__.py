"""Mask R-CNN and its family: build, train, load and predict."""

from model.build import build_detector
from model.config import ModelConfig
from model.detections import Detections
from model.detector import Detector
from model.inference.predictor import Predictor, load_detector
from model.structures import Category
from model.weights import save_detector

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
