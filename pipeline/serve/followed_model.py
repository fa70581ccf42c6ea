"""The detector of a replica: loaded from anywhere, and replaced when its alias moves."""

import logging
import threading
from dataclasses import dataclass

import numpy as np

from model import Predictor
from model.config.settings import Precision
from pipeline.config import RunConfig
from pipeline.infer.model_files import ModelFiles
from pipeline.track.promotion_record import CHAMPION
from pipeline.track.weights_source import pin_version, resolve_weights

logger = logging.getLogger(__name__)

_MAX_SKIPPED_LOOKS = 64


@dataclass(frozen=True)
class LoadedModel:
    """A detector that can predict.

    Args:
        source: where its weights come from; of an alias, the version.
        predictor: on its device.
    """

    source: str
    predictor: Predictor


def model_source(config: RunConfig) -> str:
    """Return ``serve.model``, or the champion."""
    return config.serve.model or f"models:/{config.track.model_name}@{CHAMPION}"


def load_model(
    source: str, config: RunConfig, device: str, precision: Precision = "fp32"
) -> LoadedModel:
    """Load a detector and let it predict once.

    A model that loads may still be unable to predict, and on a GPU the first prediction is slow.

    Args:
        source: as of `resolve_weights`; an alias is resolved to its version.
        config: has the MLflow store, and the settings of a bare weights file.
        device: "cpu" or "cuda".
        precision: autocast dtype of the forward passes.

    Raises:
        TrackingError, StorageError, WeightsError: it cannot be read.
    """
    version = pin_version(source, config)
    with resolve_weights(version, config) as path:
        files = ModelFiles.read(path, config.model)
    predictor = files.load(device, precision)
    side = predictor.config.input.short_side
    predictor.predict(np.zeros((side, side, 3), np.uint8))
    return LoadedModel(version, predictor)


class FollowedModel:
    """A detector that follows its alias.

    Args:
        config: ``serve`` has the model and how often to look at its alias.
        device: "cpu" or "cuda".

    Raises:
        TrackingError, StorageError, WeightsError: the first version cannot be loaded.
    """

    def __init__(self, config: RunConfig, device: str) -> None:
        self._config = config
        self._device = device
        self._source = model_source(config)
        self._is_out_of_reach = False
        self._failed_version = ""
        self._failures = 0
        self._looks_to_skip = 0
        self.current = self._load(self._source)

    def follow(self, stop: threading.Event) -> None:
        """Look where the alias points every ``serve.reload_s`` seconds, until ``stop`` is set.

        Returns at once if the model is not named by an alias.
        """
        if not (self._source.startswith("models:/") and "@" in self._source):
            return
        while not stop.wait(self._config.serve.reload_s):
            self.look()

    def look(self) -> None:
        """Replace ``current`` if the alias points at another version, once that is loaded.

        A version that does not load leaves ``current`` as it is. That is logged once, and it is
        tried again after 1, 2, 4, ... looks: the reason may be a store that was out of reach.
        """
        try:
            version = pin_version(self._source, self._config)
        except Exception as error:  # MLflow and its stores raise errors of many types
            if not self._is_out_of_reach:
                self._warn(f"{self._source} cannot be looked up", error)
            self._is_out_of_reach = True
            return
        self._is_out_of_reach = False
        if version == self.current.source:
            return
        if version != self._failed_version:
            self._failed_version, self._failures, self._looks_to_skip = version, 0, 0
        if self._looks_to_skip > 0:
            self._looks_to_skip -= 1
            return
        try:
            loaded = self._load(version)
        except Exception as error:  # whatever is wrong with the new version, the old one works
            self._failures += 1
            self._looks_to_skip = min(2 ** (self._failures - 1), _MAX_SKIPPED_LOOKS)
            if self._failures == 1:
                self._warn(f"{version} cannot be loaded", error)
            return
        logger.info("answering with %s in place of %s", loaded.source, self.current.source)
        self.current, self._failed_version = loaded, ""

    def _load(self, source: str) -> LoadedModel:
        return load_model(source, self._config, self._device, self._config.serve.precision)

    def _warn(self, problem: str, error: Exception) -> None:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        logger.warning("%s (%s); %s goes on answering", problem, reason, self.current.source)
