"""Save a detector's weights, and load them from our folders or other libraries' files."""

from typing import TYPE_CHECKING

from model.lazy_exports import lazy_exports
from model.weights.report import LoadReport, WeightsError

if TYPE_CHECKING:
    from model.weights.load import (
        load_network,
        load_weights,
        read_conventions,
        resolve_config,
    )
    from model.weights.storage.model_folder import save_detector
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "model.weights.load": [
                "load_network",
                "load_weights",
                "read_conventions",
                "resolve_config",
            ],
            "model.weights.storage.model_folder": ["save_detector"],
        },
    )

__all__ = [
    "LoadReport",
    "WeightsError",
    "load_network",
    "load_weights",
    "read_conventions",
    "resolve_config",
    "save_detector",
]
