"""Where a run keeps what several jobs share, below its ``output``."""

from typing import Literal

from pipeline import storage
from pipeline.config import RunConfig

TRAINING_FOLDER = "train"
"""Folder of the training: checkpoints and ``run.json``."""

EVALUATION_FOLDER = "evaluation"
"""Folder of the evaluation: report, images and predictions."""

Split = Literal["train", "val"]

SPLITS: tuple[Split, ...] = ("train", "val")


def split_shards_url(config: RunConfig, split: Split) -> str:
    """Return the folder of a split's shards, whether or not they have been written."""
    given = config.data.train_shards if split == "train" else config.data.val_shards
    return given or storage.join(config.output, "shards", split)
