"""Load the detector of a command line, and select, draw and cut out what it detects."""

import difflib
import functools
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model import Detections, Predictor, load_detector
from model.config import TilesConfig
from model.detections import BitmapCrop
from model.drawing import detected_objects, draw_objects
from model.images.decode import Pixels
from pipeline.config import RunConfig, load_config
from pipeline.config.predict import PredictConfig
from pipeline.extras import require_extra
from pipeline.operator_backend import warn_if_not_compiled
from pipeline.predict.errors import PredictError
from pipeline.storage.urls import is_in_store
from pipeline.track.stored_weights import stored_weights


@dataclass(frozen=True)
class Crop:
    """One object, cut out.

    Args:
        class_name: of the object.
        pixels: (h, w, 4) uint8 RGBA, transparent outside the mask; without masks the whole box.
    """

    class_name: str
    pixels: Pixels


@dataclass(frozen=True)
class DrawingDetector:
    """A detector whose results are drawn.

    Args:
        predictor: on its device.
        min_score: detections with a lower score are left out.
        labels: of the classes that are kept; None keeps all.
    """

    predictor: Predictor
    min_score: float
    labels: tuple[int, ...] | None = None

    def select(self, detections: Detections) -> Detections:
        """Return the detections of the wanted classes and scores."""
        kept = detections.above(self.min_score)
        return kept if self.labels is None else kept[torch.isin(kept.labels, self._label_tensor)]

    def draw(self, pixels: Pixels, detections: Detections, min_short_side: int) -> Pixels:
        """Return the image with the detections on it; see `model.drawing.draw_objects`."""
        objects = detected_objects(detections, self.predictor.class_names, self.predictor.skeleton)
        return draw_objects(pixels, objects, min_short_side)

    def crops(self, pixels: Pixels, detections: Detections) -> list[Crop]:
        """Return each object cut out; objects without a pixel in the image are left out."""
        masks = detections.bitmap_crops() if detections.masks is not None else None
        crops = []
        for n, (label, box) in enumerate(
            zip(detections.labels.tolist(), detections.boxes.tolist(), strict=True)
        ):
            left, top = (max(0, math.floor(side)) for side in box[:2])
            right, bottom = (math.ceil(side) for side in box[2:])
            cut = pixels[top:bottom, left:right]
            if cut.size == 0:
                continue
            opacity = np.full(cut.shape[:2], 255, np.uint8)
            if masks is not None:
                opacity = 255 * _part_of(masks[n], left, top, cut.shape[:2])
            name = self.predictor.class_names[label - 1]
            crops.append(Crop(name, np.dstack([cut, opacity])))
        return crops

    @functools.cached_property
    def _label_tensor(self) -> torch.Tensor:
        return torch.tensor(self.labels or ())


def _part_of(mask: BitmapCrop, left: int, top: int, size: tuple[int, ...]) -> Pixels:
    """Return the part (h, w) of a mask from a pixel of the image on."""
    bitmap = mask.bitmap.numpy()
    (height, width), (x, y) = bitmap.shape, mask.corner
    # Where the mask is in the part; it may begin before, and end after it.
    first_row, first_column = max(y - top, 0), max(x - left, 0)
    end_row, end_column = min(y + height - top, size[0]), min(x + width - left, size[1])
    part = np.zeros(size, np.uint8)
    if first_row < end_row and first_column < end_column:
        part[first_row:end_row, first_column:end_column] = bitmap[
            first_row + top - y : end_row + top - y, first_column + left - x : end_column + left - x
        ]
    return part


def load_drawing_detector(config: PredictConfig) -> DrawingDetector:
    """Load the detector that the settings name.

    Raises:
        PredictError: a class is unknown, or nothing says where ``models:/`` is.
        ConfigError, WeightsError, StorageError: it cannot be loaded.
    """
    run = None if config.config is None else load_config(config.config)
    predictor = _load(config, run)
    warn_if_not_compiled(predictor.device)
    labels = labels_of(config.classes, predictor.class_names) if config.classes else None
    return DrawingDetector(predictor, config.min_score, labels)


def _load(config: PredictConfig, run: RunConfig | None) -> Predictor:
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise PredictError("device=cuda, but PyTorch sees no GPU here; use --device cpu")
    settings: dict[str, float] = {"score_threshold": config.min_score}
    if config.short_side is not None:
        settings["short_side"] = config.short_side
    tiles = _tiles(config, run)
    with _local_weights(config.model, run) as path:

        def load(tiles: TilesConfig | None, **overrides: float) -> Predictor:
            model = None if run is None else run.model
            return load_detector(
                path,
                config=model,
                device=device,
                precision=config.precision,
                allow_missing=(),
                allow_unused=(),
                conventions=None,
                tiles=tiles,
                **overrides,
            )

        try:
            return load(tiles, **settings)
        except TypeError:
            # A proposal network has no score threshold, and its proposals overlap on purpose.
            del settings["score_threshold"]
            return load(tiles and tiles.model_copy(update={"join": "nms"}), **settings)


def _tiles(config: PredictConfig, run: RunConfig | None) -> TilesConfig | None:
    """Return the tiles that the settings ask for; None leaves it to the detector's own."""
    if config.tiles is None:
        return None
    base = (None if run is None else run.model.tiles) or TilesConfig()
    return base.model_copy(update={"size": config.tiles})


@contextmanager
def _local_weights(source: str, run: RunConfig | None) -> Iterator[str | Path]:
    """Provide weights as a local path, or as an address that `load_detector` takes."""
    if is_in_store(source):
        with stored_weights(source) as path:
            yield path
        return
    if not source.startswith(("models:/", "runs:/")):
        yield source
        return
    if run is None and "MLFLOW_TRACKING_URI" not in os.environ:
        raise PredictError(
            f"{source} is in an MLflow store; set MLFLOW_TRACKING_URI, or name the run's config "
            "with --config"
        )
    require_extra("train", f"access to {source}")
    # MLflow takes seconds to import, and other weights need none of it.
    from pipeline.track.mlflow_store import TrackingError  # noqa: PLC0415
    from pipeline.track.weights_source import resolve_weights  # noqa: PLC0415

    try:
        with resolve_weights(source, run or RunConfig()) as path:
            yield path
    except TrackingError as error:
        raise PredictError(str(error)) from error


def labels_of(classes: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """Return the labels of class names; case does not matter.

    Raises:
        PredictError: the detector has no such class.
    """
    label_of = {_normalized(name): label for label, name in enumerate(names, start=1)}
    labels = []
    for name in classes:
        if _normalized(name) not in label_of:
            near = difflib.get_close_matches(_normalized(name), label_of, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}"
            raise PredictError(f"the detector has no class {name!r}; {hint}")
        labels.append(label_of[_normalized(name)])
    return tuple(labels)


def _normalized(name: str) -> str:
    return re.sub(r"[\s_]+", " ", name).strip().casefold()
