"""Settings of evaluation."""

from typing import Annotated

from pydantic import Field, model_validator

from model.config.settings import Fraction, NonNegative, Positive, Precision, Settings
from model.weights.published.table import DetectorWord
from pipeline.storage.urls import Location, ModelLocation


class EvaluateConfig(Settings):
    """Evaluation with COCO metrics."""

    batch: Positive = Field(4, description="Images per forward pass.")
    weights: DetectorWord | ModelLocation | None = Field(
        None,
        description="Checkpoint URL, models:/name@alias, or coco for the published detector of "
        "this architecture; default: the best or last checkpoint of the run "
        "(train.final_checkpoint).",
    )
    predictions: Location | None = Field(
        None,
        description="Output of infer_batch on the same shards; its predictions are measured, and "
        "no detector predicts again.",
    )
    split: str = Field(
        "val",
        description="The split that is evaluated: val, train, or a name in data.splits or "
        "data.split_shards. The results of val are in {output}/evaluation, all others in a folder "
        "of their name in it.",
    )
    max_detections: Positive = Field(
        100,
        description="Detections of a class in an image that AP and AR count; COCO: 100. For images "
        "with more objects raise it together with model.box.detections_per_image.",
    )
    score_threshold: Fraction = Field(
        0.5,
        description="Score from which on a detection counts as found or false in the table of the "
        "images, the confusion matrix and the worst images. AP counts all scores.",
    )
    resamples: Positive = Field(
        1000, description="Resamples of the images for the interval of a difference in AP."
    )
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.95, description="Confidence of such intervals."
    )
    precision: Precision = Field(
        "fp32", description="Autocast dtype; bf16 or fp16 is faster on a GPU."
    )
    workers: Positive = Field(1, description="Model replicas, if the job joins a cluster.")
    worst_images: NonNegative = Field(
        4,
        description="Images to draw with the most missed objects, and as many with the most false "
        "positives.",
    )
    pictures: NonNegative = Field(8, description="Images to draw predictions on.")

    @model_validator(mode="after")
    def _one_detector(self) -> "EvaluateConfig":
        if self.predictions is not None and self.weights is not None:
            raise ValueError(
                "evaluate.predictions and evaluate.weights cannot both be given: the predictions "
                "are those of one detector"
            )
        return self
