"""Configs with a search space, for the tests of sweeps."""

from pipeline.config import RunConfig

LR = "train.optimizer.lr"


def sweep_config(space, **tree):
    return RunConfig.model_validate(
        {"output": "/out", **tree, "sweep": {"space": space, "grace_steps": 7}}
    )
