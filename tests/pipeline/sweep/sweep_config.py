"""Configs with a search space, for the tests of sweeps."""

from pipeline.config import RunConfig
from pipeline.sweep.ledger import TrialRecord

LR = "train.optimizer.lr"
BATCH = "train.global_batch"
KIND = "train.schedule.kind"


def sweep_config(space, sweep=None, **tree):
    return RunConfig.model_validate(
        {"output": "/out", **tree, "sweep": {"space": space, "grace_steps": 7, **(sweep or {})}}
    )


def finished(number, value, status="finished", metric="val/segm/AP", images=100, **fields):
    """A trial that has ended; without a value it measured nothing."""
    measured = value is not None
    return TrialRecord(
        f"{number:04d}",
        fields.pop("values", {}),
        status,
        steps=10,
        metrics={metric: value} if measured else {},
        history=((images, value),) if measured else (),
        **fields,
    )
