"""Run the trials of a sweep in Ray Tune."""

import functools
import logging
import os
from typing import Any

from ray import tune

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.sweep.clock import SweepClock
from pipeline.sweep.ledger import TrialLedger
from pipeline.sweep.ledger_callback import LedgerCallback
from pipeline.sweep.proposals import proposals
from pipeline.sweep.schedulers import build_scheduler
from pipeline.sweep.stopped_trials import StoppedTrials, wait_and_remove_groups
from pipeline.sweep.trial import run_trial, sweep_folder
from pipeline.sweep.trial_log import TrialLog
from pipeline.sweep.trial_source import TrialSource, TrialStream
from pipeline.train.placement_group import PLACEMENT_GROUP

logger = logging.getLogger(__name__)

# The process of a trial only starts and watches workers. If it requested nothing, Tune would
# reserve a CPU for it, and the workers on a small machine would wait for that CPU forever.
TRIAL_RESOURCES = {"memory": 2**20}
REMOVE_GROUPS_TIMEOUT_S = 60.0
TUNE_FOLDER = "tune"

TUNE_ENVIRONMENT = {
    # Reports between two validations have no metric.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Its tables and the tracebacks of failed trials; the sweep logs a line for each.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}

# More than any sweep has: a trial whose process was lost starts again as another one of Tune.
_UNLIMITED = 10**9


def run_search(
    config: RunConfig,
    ledger: TrialLedger,
    clock: SweepClock,
    run_id: str,
    count: int,
    concurrent: int,
) -> None:
    """Run all trials that the ledger has not settled; what becomes of them is in the ledger.

    Args:
        config: the sweep's settings, with numbers for workers and CPUs.
        ledger: its trials.
        clock: ends the search.
        run_id: the sweep's MLflow run.
        count: number of trials of the sweep.
        concurrent: number of trials at once.
    """
    proposed_by = proposals(config, ledger.records())
    source = TrialSource(config, ledger, proposed_by, count, concurrent)
    started, new = ledger.unfinished(count)
    os.environ.update(TUNE_ENVIRONMENT)
    # What Tune keeps of an earlier submission is of no use.
    storage.delete(storage.join(sweep_folder(config), TUNE_FOLDER))
    store, path = storage.filesystem(sweep_folder(config))
    tuner = tune.Tuner(
        tune.with_resources(
            functools.partial(run_trial, config=config, parent_run_id=run_id), TRIAL_RESOURCES
        ),
        tune_config=tune.TuneConfig(
            num_samples=_UNLIMITED,
            search_alg=TrialStream(source),
            scheduler=build_scheduler(config, ledger.settled()),
            trial_name_creator=_name,
            trial_dirname_creator=_folder,
        ),
        run_config=tune.RunConfig(
            name=TUNE_FOLDER,
            storage_path=path,
            storage_filesystem=store,
            stop=clock,
            verbose=0,
            callbacks=[
                StoppedTrials(),
                LedgerCallback(config, ledger, source, proposed_by, clock),
                TrialLog(len(started) + len(new)),
            ],
        ),
    )
    _remove_placement_groups(tuner.fit())


def _name(trial: Any) -> str:
    """Return the name of a trial of Tune: its id in the ledger."""
    return str(trial.config["trial"])


def _folder(trial: Any) -> str:
    return f"{trial.config['trial']}-{trial.trial_id}"


def _remove_placement_groups(grid: tune.ResultGrid) -> None:
    """Remove the placement groups of the trials that were stopped last."""
    group_ids = {(result.metrics or {}).get(PLACEMENT_GROUP, "") for result in grid} - {""}
    if in_use := wait_and_remove_groups(group_ids, REMOVE_GROUPS_TIMEOUT_S):
        logger.warning("%d stopped trials still hold their CPUs", len(in_use))
