"""Weights in and out: our own folders, and other ecosystems' files under our names."""

from model.weights.files import save_detector
from model.weights.loading import conventions_of, load_detector, load_weights
from model.weights.report import LoadReport, WeightsError

__all__ = [
    "LoadReport",
    "WeightsError",
    "conventions_of",
    "load_detector",
    "load_weights",
    "save_detector",
]
