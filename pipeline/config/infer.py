"""Settings of batch inference."""

from pydantic import Field

from model.config.settings import (
    Fraction,
    NonNegative,
    Positive,
    PositiveFloat,
    Precision,
    Settings,
)
from model.weights.published.table import DetectorWord
from pipeline.config.annotations import AnnotationsConfig
from pipeline.storage.urls import Location


class InferConfig(Settings):
    """Batch inference."""

    inputs: Location | None = Field(
        None, description="URL of a folder of images or shards; default: the validation shards."
    )
    output: Location | None = Field(
        None, description="URL of the prediction shards; default: {output}/predictions."
    )
    model: DetectorWord | Location | None = Field(
        None,
        description="models:/name@alias, a weights URL, or coco for the published detector of this "
        "architecture; default: the champion.",
    )
    batch: Positive = Field(4, description="Images per forward pass.")
    precision: Precision = Field(
        "fp32", description="Autocast dtype; bf16 or fp16 is faster on a GPU."
    )
    workers: Positive = Field(1, description="Model replicas.")
    images_per_shard: Positive = Field(
        64,
        description="Images per new output file, if the input is a folder of images. Finished "
        "files keep their images.",
    )
    score_threshold: Fraction = Field(0.05, description="Minimum score of a detection.")
    max_failed: Fraction = Field(
        1.0,
        description="Share of unreadable images above which the job fails, after everything is "
        "written.",
    )
    max_hours: PositiveFloat | None = Field(
        None,
        description="Start no more output files after this many hours; the job fails if images are "
        "left, and continues when it is started again.",
    )
    coco_results: bool = Field(
        False,
        description="Also write coco_results.json, detections in COCO's results format, and "
        "coco_images.json, the images of its ids.",
    )
    annotations: AnnotationsConfig = AnnotationsConfig()
    pictures: NonNegative = Field(8, description="Images to draw predictions on.")
