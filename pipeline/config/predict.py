"""Settings of inference on a user's own images, videos and cameras."""

from typing import Literal

from pydantic import Field, model_validator

from model.config.settings import Fraction, Positive, Precision, Settings
from model.weights.published.table import DetectorWord
from pipeline.config.annotations import AnnotationFormat
from pipeline.storage.urls import Location, ModelLocation


class PredictConfig(Settings):
    """Inference with drawn results; a command line of its own sets these, not a run's config."""

    model: DetectorWord | ModelLocation = Field(
        description="A run's folder, a checkpoint, a weights file of any supported library, "
        "models:/name@alias, or coco for published weights of the config's detector (default: "
        "torchvision's Mask R-CNN R50-FPN)."
    )
    inputs: tuple[str, ...] = Field(
        (),
        description="Images, videos, folders, patterns such as 'photos/*.jpg', or URLs of object "
        "stores.",
    )
    webcam: str | None = Field(
        None, description="A camera's number or device, or the URL of a live stream."
    )
    output: Location | None = Field(
        None,
        description="Folder for the drawn images, also in an object store; default: predictions.",
    )
    show: bool = Field(False, description="Show the results in a window.")
    min_score: Fraction = Field(0.5, description="Minimum score of a detection.")
    classes: tuple[str, ...] = Field((), description="Names of the classes to keep; default: all.")
    json_results: bool = Field(
        False, description="Also write the detections in COCO's results format, with names."
    )
    annotations: tuple[AnnotationFormat, ...] = Field(
        (),
        description="Also write the detections on images as annotations to correct or to train on: "
        "coco, for CVAT and prepare_shards; label_studio.",
    )
    image_prefix: str | None = Field(
        None,
        description="What Label Studio needs before an image's name to find it; default: "
        "/data/local-files/?d= for local files, else their URLs.",
    )
    crops: bool = Field(
        False, description="Also write each object as an image of its own, cut out by its mask."
    )
    overwrite: bool = Field(False, description="Replace files that are in the output already.")
    config: Location | None = Field(
        None,
        description="A config whose model section describes a bare weights file, and whose track "
        "section says where models:/ is.",
    )
    short_side: Positive | None = Field(
        None, description="Size that images are resized to, pixels; smaller is faster."
    )
    tiles: Positive | None = Field(
        None,
        description="Also detect in overlapping tiles of this height and width, pixels: for "
        "objects that are small in large images. A config can set more of model.tiles.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: a GPU if there is one."
    )
    precision: Precision = Field(
        "fp32", description="Autocast dtype; bf16 or fp16 is faster on a GPU."
    )
    batch: Positive | None = Field(
        None, description="Images per forward pass; default: 1 on a CPU, 8 on a GPU."
    )

    @model_validator(mode="after")
    def _check_source(self) -> "PredictConfig":
        if bool(self.inputs) == (self.webcam is not None):
            raise ValueError("name the images or videos to predict on, or a webcam; not both")
        return self

    @property
    def output_url(self) -> str | None:
        """Where results are written; None if they are only shown."""
        files_are_wanted = bool(
            self.json_results or self.annotations or self.crops or not self.show
        )
        return self.output or ("predictions" if files_are_wanted else None)
