"""Settings of batch inference."""

from typing import Literal

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
from pipeline.storage.urls import Location, ModelLocation


class InferConfig(Settings):
    """Batch inference."""

    inputs: Location | None = Field(
        None,
        description="URL of a folder of images or shards, an image, a list (.txt, one path or URL "
        "per line), a COCO document (.json), Parquet files (with image_column) or a video; "
        "default: the validation shards.",
    )
    images: Location | None = Field(
        None,
        description="Folder that the file names of a COCO document are relative to; default: the "
        "folder of the document.",
    )
    image_column: str | None = Field(
        None,
        description="Column of Parquet files with encoded images, or with paths or URLs of images; "
        "column.field for a field of a struct.",
    )
    id_column: str | None = Field(
        None,
        description="Column of Parquet files with ids, integers or text; default: the images are "
        "numbered.",
    )
    output: Location | None = Field(
        None, description="URL of the prediction shards; default: {output}/predictions."
    )
    model: DetectorWord | ModelLocation | None = Field(
        None,
        description="models:/name@alias, a weights URL, or coco for the published detector of this "
        "architecture; default: the champion.",
    )
    batch: Positive = Field(4, description="Images per forward pass.")
    precision: Precision = Field(
        "fp32", description="Autocast dtype; bf16 or fp16 is faster on a GPU."
    )
    workers: Positive | Literal["auto"] = Field(
        "auto",
        description="Model replicas; auto: one per GPU of the cluster or of this machine, or one.",
    )
    images_per_shard: Positive = Field(
        64,
        description="Images per new output file, unless the input is shards. Finished files keep "
        "their images.",
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
        "coco_images.json, the images of its ids. Category ids are those of the shards or the COCO "
        "document, matched by name, else those of the model.",
    )
    annotations: AnnotationsConfig = AnnotationsConfig()
    pictures: NonNegative = Field(8, description="Images to draw predictions on.")
