"""Weights in and out: our own folders, and other ecosystems' files under our names."""

from model.weights.load import conventions_of, load_network, load_weights
from model.weights.report import LoadReport, WeightsError
from model.weights.storage.files import save_detector

__all__ = [
    "LoadReport",
    "WeightsError",
    "conventions_of",
    "load_network",
    "load_weights",
    "save_detector",
]
