"""The code file of every registered model: MLflow runs it and serves what it names.

It is copied into the model's folder, so an old version keeps the file it was registered with; it
leans only on ``load_detector`` and ``decode_image`` of the installed package. The detector itself
is tensors and JSON; nothing is unpickled.
"""

from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from model import Detections, load_detector
from pipeline.shards.decode import decode_image


class ServedDetector(PythonModel):  # type: ignore[misc]  # mlflow has no types
    """Encoded images in, one row of objects per image out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read model.safetensors and model.json from the model's folder."""
        self.detector = load_detector(context.artifacts["detector"])

    def predict(
        self,
        context: PythonModelContext | None,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Detect objects.

        Args:
            context: not used; the detector is loaded already.
            model_input: column ``image`` of JPEG, PNG or WebP bytes.
            params: ``score_threshold``, the least score to report.

        Returns:
            Columns ``boxes`` (x1 y1 x2 y2, pixels of the image), ``scores``, ``labels`` (1..K),
            ``category_ids`` and ``category_names`` of the training data (empty for a proposal
            network), ``masks`` (COCO RLE, empty for a detector without masks), ``keypoints`` (x, y
            in pixels of the image and a score each, empty for a detector without) and their
            ``keypoint_names``; one list per image in each.
        """
        images = [decode_image(encoded) for encoded in model_input["image"]]
        least_score = float((params or {}).get("score_threshold", 0.0))
        found = self.detector.predict(images) if images else []
        return pd.DataFrame([self._row(one.above(least_score)) for one in found])

    def _row(self, detections: Detections) -> dict[str, Any]:
        labels = detections.labels.tolist()
        config = self.detector.config
        named = [] if config.is_proposal_network else labels
        categories = [self.detector.categories[label - 1] for label in named]
        points, head = detections.keypoints, config.keypoint
        return {
            "boxes": detections.boxes.tolist(),
            "scores": detections.scores.tolist(),
            "labels": labels,
            "category_ids": [category.id for category in categories],
            "category_names": [category.name for category in categories],
            "masks": [] if detections.masks is None else detections.rle(),
            "keypoints": [] if points is None else points.tolist(),
            "keypoint_names": [] if points is None or head is None else list(head.names),
        }


# What MLflow reads from this file when it loads the model; it has no effect elsewhere.
mlflow.models.set_model(ServedDetector())
