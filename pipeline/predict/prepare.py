"""Check everything that needs no detector, before PyTorch is imported."""

from dataclasses import dataclass, field
from typing import Any

from model.weights.published.table import WORDS
from pipeline import storage
from pipeline.config.predict import PredictConfig
from pipeline.extras import require_extra
from pipeline.output_layout import ANNOTATION_FILES, COCO_IMAGES_FILE, COCO_RESULTS_FILE
from pipeline.predict.errors import PredictError
from pipeline.predict.inputs import FoundInputs, find_inputs
from pipeline.predict.output import CROPS_FOLDER, Output
from pipeline.predict.window import ResultWindow

WEBCAM_FILE = "webcam.mp4"


@dataclass(frozen=True)
class PreparedJob:
    """A job that has passed all checks which need no detector.

    Args:
        config: the settings.
        inputs: images and videos; empty for a camera.
        output: where to write; None to only show.
        window: where to show; None to only write.
    """

    config: PredictConfig
    inputs: FoundInputs
    output: Output | None
    window: ResultWindow | None

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of images and videos."""
        return len(self.inputs.images), len(self.inputs.videos)


@dataclass
class Summary:
    """Counts of a job.

    Attributes:
        images: images with results.
        videos: videos with results.
        frames: frames of videos and cameras with results.
        objects: detections.
        failed: inputs that could not be read, or not to their end: URL -> reason.
        first_result_s: seconds from the start of the job to its first result.
    """

    images: int = 0
    videos: int = 0
    frames: int = 0
    objects: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    first_result_s: float | None = None


def prepare(config: PredictConfig) -> PreparedJob:
    """Find the inputs and the output.

    Raises:
        PredictError: the model or an input is missing, or results cannot be written or shown.
        StorageError: a store cannot be read.
        MissingPackagesError: an extra that a video or a URL needs is not installed.
    """
    model = storage.local_path(config.model)
    if config.model not in WORDS and model is not None and not model.exists():
        raise PredictError(f"MODEL {config.model}: no such file or folder")
    if config.annotations:
        require_extra("labeling", "--annotations")
    url = config.output_url
    inputs = find_inputs(config.inputs, url)
    if config.annotations and not inputs.images:
        raise PredictError("--annotations is for images, and there are none among the inputs")
    webcam = [] if config.webcam is None else [WEBCAM_FILE]
    if inputs.videos:
        video_modules()
    if config.webcam is not None:
        video_modules().find_device(config.webcam)
    output = None if url is None else Output(url)
    if output is not None:
        crops = [CROPS_FOLDER] if config.crops else []
        files = [*inputs.images, *inputs.videos]
        output.check(files, [*record_files(config), *crops, *webcam], config.overwrite)
        if inputs.videos or webcam:
            output.local_file(WEBCAM_FILE)
    return PreparedJob(config, inputs, output, ResultWindow() if config.show else None)


def record_files(config: PredictConfig) -> list[str]:
    """Return the names of the files of detections that the job writes."""
    results = [COCO_RESULTS_FILE, COCO_IMAGES_FILE] if config.json_results else []
    return results + [name for each in config.annotations for name in ANNOTATION_FILES[each]]


def video_modules() -> Any:
    """Return the module `pipeline.predict.videos`.

    Raises:
        MissingPackagesError: PyAV is not installed.
    """
    require_extra("video", "predict on videos and cameras")
    # Optional: PyAV is in the extra "video".
    from pipeline.predict import videos  # noqa: PLC0415

    return videos
