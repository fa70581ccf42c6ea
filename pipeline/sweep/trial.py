"""One trial of a sweep: a whole training whose reports reach Ray Tune."""

from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from pipeline.config import RunConfig
from pipeline.sweep.search_space import trial_config
from pipeline.train.driver import run_training


def run_trial(values: Mapping[str, Any], config: RunConfig, parent_run_id: str) -> None:
    """Train with ``values``; Ray Tune's entry, in an actor that reserves no CPU of its own.

    A trial that is started again (after a crash, or by a resumed sweep) continues from its own
    newest checkpoint, since it keeps its id and therefore its folder.

    Args:
        values: the drawn values by dotted key.
        config: the sweep's config.
        parent_run_id: the sweep's MLflow run; the trial's is nested under it.
    """
    trial_id = tune.get_context().get_trial_id()
    run_training(
        trial_config(config, values, trial_id),
        parent_run_id=parent_run_id,
        callbacks=[TuneReportCallback()],
    )


def reported_name(metric: str) -> str:
    """A metric as trainings report it: ``segm/AP`` is validation's, ``train/loss`` is as it is."""
    return metric if metric.startswith(("train/", "val/")) else f"val/{metric}"
