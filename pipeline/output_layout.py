"""Where a run keeps what several jobs share, below its ``output``."""

from typing import Any

from pipeline import storage
from pipeline.config import RunConfig

EXPLORATION_FOLDER = "data"
"""Folder of the data report: ``report.md``, plots and drawn samples."""

TRAINING_FOLDER = "train"
"""Folder of the training: checkpoints and ``run.json``."""

EVALUATION_FOLDER = "evaluation"
"""Folder of the evaluation: report, images and predictions."""

COMPARISON_FOLDER = "comparison"
"""Folder of a comparison of two detectors: report and images."""

SWEEP_FOLDER = "sweep"
"""Folder of the sweep: ``best.yaml`` and the trials."""

CHAMPION_FOLDER = "champion"
"""Folder of the champion's evaluation on this output's data."""

STAGES_FOLDER = "stages"
"""Folder of the chain: records, states and logs of its stages."""

COCO_RESULTS_FILE, COCO_IMAGES_FILE = "coco_results.json", "coco_images.json"
"""Detections in COCO's results format, and the images of their ids."""

SUMMARY_FILE = "summary.json"
"""What a job of batch inference has done."""

ANNOTATION_FILES = {
    "coco": ("annotations.json",),
    "label_studio": ("label_studio.json", "label_studio.xml"),
}
"""Detections as annotations: format -> files."""

SPLITS = ("train", "val")
"""The splits of a training; ``data.split_names`` has the further ones too."""


OUTPUT_MARK = "{output}"
"""The output folder in records, which stay valid when the folder is moved."""


def to_portable(document: Any, output: str) -> Any:
    """Replace the output folder by a mark, in all URLs of a document of plain values."""
    return _replace_prefix(document, output.rstrip("/"), OUTPUT_MARK)


def from_portable(document: Any, output: str) -> Any:
    """Restore the document that `to_portable` was given, for the present output folder."""
    return _replace_prefix(document, OUTPUT_MARK, output.rstrip("/"))


def _replace_prefix(document: Any, prefix: str, replacement: str) -> Any:
    match document:
        case str() if document == prefix or document.startswith(f"{prefix}/"):
            return replacement + document[len(prefix) :]
        case dict():
            return {k: _replace_prefix(v, prefix, replacement) for k, v in document.items()}
        case list() | tuple():
            return [_replace_prefix(value, prefix, replacement) for value in document]
    return document


def split_shards_url(config: RunConfig, split: str) -> str:
    """Return the folder of a split's shards, whether or not they have been written."""
    data = config.data
    of_training = {"train": data.train_shards, "val": data.val_shards}
    given = of_training[split] if split in SPLITS else data.split_shards.get(split)
    return given or storage.join(config.output, "shards", split)


def evaluated_shards_url(config: RunConfig) -> str:
    """Return the folder of the shards that ``evaluate.split`` names."""
    return split_shards_url(config, config.evaluate.split)


def evaluation_url(config: RunConfig) -> str:
    """Return the folder of the evaluation on ``evaluate.split``."""
    return storage.join(config.output, evaluation_path(config.evaluate.split))


def evaluation_path(split: str) -> str:
    """Return the folder of the evaluation on a split, relative to the output."""
    return EVALUATION_FOLDER if split == "val" else f"{EVALUATION_FOLDER}/{split}"


def predictions_url(config: RunConfig) -> str:
    """Return the folder of the batch inference's output."""
    return config.infer.output or storage.join(config.output, "predictions")
