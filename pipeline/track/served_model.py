"""The code of every registered model: MLflow runs this file and serves the model it sets.

It is copied into the model's folder together with the code of the detector, so an old version
keeps the code that it was registered with. The detector itself is tensors and JSON; nothing is
unpickled, and other files in its folder are refused.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from model import Detections, load_detector
from model.images.decode import decode_image

_FILES = {"model.safetensors", "model.json", "checksums.json"}


class ServedDetector(PythonModel):  # type: ignore[misc]  # mlflow has no types
    """A detector that takes encoded images and returns one row of objects per image."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load model.safetensors and model.json from the model's folder.

        Raises:
            ValueError: somebody added a file to the folder.
        """
        folder = Path(context.artifacts["detector"])
        if others := sorted({path.name for path in folder.iterdir()} - _FILES):
            raise ValueError(
                f"{folder} holds {others[0]}, which is no file of a registered detector; nothing "
                "is loaded. Register the checkpoint again."
            )
        self.predictor = load_detector(folder)

    def predict(
        self,
        context: PythonModelContext | None,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Detect objects.

        Args:
            context: not used; the detector is already loaded.
            model_input: column ``image`` of encoded images (JPEG, PNG, ...), which are turned as
                their EXIF data says.
            params: ``score_threshold``; detections with a lower score are left out.

        Returns:
            Columns with one list per image: ``boxes`` (x1 y1 x2 y2, pixels of the image),
            ``scores``, ``labels`` (1..K), ``category_ids`` and ``category_names`` of the training
            data (empty for a proposal network), ``masks`` (COCO RLE, empty for a detector without
            masks), ``keypoints`` (x, y in pixels of the image, and score; empty for a detector
            without keypoints) and their ``keypoint_names``.
        """
        images = [decode_image(encoded) for encoded in model_input["image"]]
        score_threshold = float((params or {}).get("score_threshold", 0.0))
        detections = self.predictor.predict(images)
        return pd.DataFrame([self._row(one.above(score_threshold)) for one in detections])

    def _row(self, detections: Detections) -> dict[str, Any]:
        labels = detections.labels.tolist()
        config = self.predictor.config
        has_classes = not config.is_proposal_network
        categories = [self.predictor.categories[label - 1] for label in labels if has_classes]
        keypoints, head = detections.keypoints, config.keypoint
        return {
            "boxes": detections.boxes.tolist(),
            "scores": detections.scores.tolist(),
            "labels": labels,
            "category_ids": [category.id for category in categories],
            "category_names": [category.name for category in categories],
            "masks": [] if detections.masks is None else detections.rle(),
            "keypoints": [] if keypoints is None else keypoints.tolist(),
            "keypoint_names": [] if keypoints is None or head is None else list(head.names),
        }


# MLflow reads this when it loads the model from the file; elsewhere it has no effect.
mlflow.models.set_model(ServedDetector())
