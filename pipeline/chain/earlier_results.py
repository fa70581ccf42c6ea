"""Set the results of earlier data aside when a chain runs on changed data.

A training refuses to continue on other data. In a chain, changed data is expected: it trains again
in the same output folder, and the earlier training is kept beside it until the next time.
"""

import logging

from pipeline import storage
from pipeline.chain.stage import StageRecord, read_record
from pipeline.config import RunConfig
from pipeline.output_layout import SWEEP_FOLDER, TRAINING_FOLDER, split_shards_url
from pipeline.shards.manifest import read_manifest
from pipeline.storage.exclusive_use import exclusive_use
from pipeline.train.run_record import read_run_record

logger = logging.getLogger(__name__)

EARLIER_SUFFIX = "-earlier"


def set_aside_other_data(config: RunConfig, stage: str) -> None:
    """Move the folder of a training or sweep aside if it was made from other training shards.

    Args:
        config: the job's settings.
        stage: ``train`` or ``sweep``.

    Raises:
        StorageError: the folder cannot be moved.
    """
    digest = read_manifest(split_shards_url(config, "train")).digest
    before = _digest_of_training(config) if stage == "train" else _digest_of_sweep(config)
    if before is None or before == digest:
        return
    name = TRAINING_FOLDER if stage == "train" else SWEEP_FOLDER
    folder = storage.join(config.output, name)
    target = f"{folder}{EARLIER_SUFFIX}"
    with exclusive_use(folder, f"the chain, to start the {stage} anew"):
        pass  # no other job trains in it
    storage.delete(target)
    storage.move_folder(folder, target)
    logger.info(
        "the training data changed (digest %s, was %s): %s is now %s, and stage %s starts anew",
        *(digest[:12], before[:12], folder, target, stage),
    )


def _digest_of_training(config: RunConfig) -> str | None:
    record = read_run_record(config.output)
    return None if record is None else record.dataset_digest


def _digest_of_sweep(config: RunConfig) -> str | None:
    """Return the digest that the chain recorded with the sweep; None if there is no sweep."""
    if not storage.exists(storage.join(config.output, SWEEP_FOLDER)):
        return None
    try:
        record: StageRecord | None = read_record(config.output, "sweep")
    except storage.DamagedRecordError:
        return None
    return None if record is None else record.facts.inputs.get("train_shards.digest")
