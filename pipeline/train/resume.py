"""Select the checkpoint that a training resumes from, before any worker starts."""

import logging

from pipeline import storage
from pipeline.train.checkpoint import CheckpointError, verify_checkpoint
from pipeline.train.checkpoint_store import (
    delete_partial_checkpoints,
    list_checkpoints,
    list_damaged,
    set_aside,
    training_url,
)

logger = logging.getLogger(__name__)

# Ray Train fails at the start if this file is damaged or names a checkpoint that is gone. Workers
# look for the newest checkpoint themselves, so it is not needed.
_RAY_SNAPSHOT = "checkpoint_manager_snapshot.json"


def find_checkpoint(output: str) -> str | None:
    """Return the URL of the newest intact checkpoint, or None if there is none yet.

    Damaged checkpoints that are newer are set aside under another name, with one warning. If all
    are damaged, they stay where they are.

    Raises:
        CheckpointError: there are checkpoints, but all are damaged or were set aside.
    """
    faults: dict[str, str] = {}
    for url in list_checkpoints(output):
        try:
            with storage.fetch(url) as folder:
                verify_checkpoint(folder, shown=url)
        except CheckpointError as error:
            faults[url] = str(error)
            continue
        if faults:
            _set_aside(faults, url)
        return url
    if faults:
        raise CheckpointError(_nothing_left(output, " ".join(faults.values())))
    if aside := list_damaged(output):
        listed = ", ".join(aside)
        raise CheckpointError(_nothing_left(output, f"There are only {listed}, set aside before."))
    return None


def clear_interrupted_state(output: str) -> None:
    """Delete what a job that was killed may have left half-written; no other job may be running."""
    storage.delete(storage.join(training_url(output), _RAY_SNAPSHOT))
    delete_partial_checkpoints(output)


def _set_aside(faults: dict[str, str], intact: str) -> None:
    names = [set_aside(url) for url in faults]
    logger.warning(
        "%s Set aside as %s; resuming from %s",
        " ".join(faults.values()),
        ", ".join(names),
        intact,
    )


def _nothing_left(output: str, reason: str) -> str:
    training = training_url(output)
    return (
        f"no intact checkpoint is left in {training}. {reason} Restore one from a copy; or, to "
        f"train from the beginning, delete {training} or choose another output."
    )
