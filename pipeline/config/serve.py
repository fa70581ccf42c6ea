"""Settings of the web server for detectors."""

from typing import Annotated

from pydantic import Field

from model.config.settings import Fraction, Positive, PositiveFloat, Precision, Settings
from model.weights.published.table import DetectorWord
from pipeline.storage.urls import ModelLocation


class ServeConfig(Settings):
    """A detector behind HTTP."""

    model: DetectorWord | ModelLocation | None = Field(
        None,
        description="models:/name@alias, a weights URL, or coco for the published detector of this "
        "architecture; default: the champion.",
    )
    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to listen on; 0.0.0.0 lets every machine of the network in.",
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        8000, description="TCP port to listen on; 0: any free one."
    )
    replicas: Positive = Field(1, description="Model replicas, each on a GPU or CPU of its own.")
    batch: Positive | None = Field(
        None,
        description="Most images per forward pass; default: 1 on a CPU, 8 on a GPU. Fewer if fewer "
        "wait.",
    )
    batch_wait_s: Annotated[float, Field(ge=0.0, le=10.0)] = Field(
        0.01, description="Seconds that the first image of a batch waits for more, at most."
    )
    precision: Precision = Field(
        "fp32", description="Autocast dtype; bf16 or fp16 is faster on a GPU."
    )
    min_score: Fraction = Field(
        0.5, description="Minimum score of a detection, unless the request states another."
    )
    max_megabytes: PositiveFloat = Field(
        32.0, description="Largest image file, in units of 1,000,000 bytes."
    )
    # As many as model/images/decode.py decodes.
    max_pixels: int = Field(50_000_000, gt=0, le=178_956_970, description="Largest image, pixels.")
    queue: Positive = Field(
        64, description="Requests that are answered or wait at a time; more are refused."
    )
    timeout_s: PositiveFloat = Field(
        60.0, description="Seconds within which a request is received and answered, or refused."
    )
    reload_s: PositiveFloat = Field(
        10.0, description="Seconds between two looks at where the alias of the model points."
    )
    stop_s: PositiveFloat = Field(
        30.0, description="Seconds that the requests in progress get to finish when serving stops."
    )
