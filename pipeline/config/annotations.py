"""Settings of detections that are written as annotations."""

from typing import Literal

from pydantic import Field

from model.config.settings import Fraction, Settings

AnnotationFormat = Literal["coco", "label_studio"]


class AnnotationsConfig(Settings):
    """Detections as annotations, to correct in a labeling tool or to train on."""

    formats: tuple[AnnotationFormat, ...] = Field(
        (),
        description="coco: annotations.json, which CVAT and prepare_shards read; label_studio: "
        "label_studio.json, tasks with predictions, and label_studio.xml, the labeling interface.",
    )
    min_score: Fraction = Field(0.5, description="Minimum score of an annotation.")
    image_prefix: str | None = Field(
        None,
        description="What Label Studio needs before an image's name to find it; default: "
        "/data/local-files/?d= for a local folder, else the URL of the folder.",
    )
