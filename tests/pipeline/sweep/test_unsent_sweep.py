"""A tracker that goes away ends no sweep, and a finished sweep sends what it could not; no Ray."""

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from sqlalchemy.exc import OperationalError

from pipeline.config import DataConfig
from pipeline.shards.manifest import read_manifest
from pipeline.sweep import driver
from pipeline.sweep.driver import _end_stopped_runs, run_sweep
from pipeline.sweep.ledger import TrialLedger
from pipeline.sweep.sweep_record import SweepRecord, shared_digest, write_record
from pipeline.sweep.trial import trial_folder
from pipeline.track.mlflow_run import open_run
from pipeline.track.send_unsent import UnsentCount, count_unsent, send_unsent
from pipeline.track.unsent_run import UnsentRun
from pipeline.train.run_record import RunRecord, write_run_record
from tests.pipeline.sweep.sweep_config import LR, finished, tiny_sweep


@pytest.fixture
def config(tmp_path, shapes_shards, mlflow_uri):
    sweep = {
        "space": {LR: {"kind": "grid", "values": [0.01]}},
        "searcher": "grid",
        "metric": "train/loss",
        "mode": "min",
        "grace_steps": 2,
    }
    config = tiny_sweep(tmp_path / "output", sweep)
    data = DataConfig(train_shards=shapes_shards, val_shards=shapes_shards)
    track = config.track.model_copy(update={"uri": mlflow_uri})
    return config.model_copy(update={"data": data, "track": track})


def test_a_finished_sweep_sends_what_it_and_its_trials_have_kept(config, shapes_shards):
    with open_run(config, "sweep") as run:
        pass
    digest = read_manifest(shapes_shards).digest
    write_record(config, SweepRecord(shared_digest(config), digest, run.run_id, reported=1))
    trial = finished(0, 0.5, metric="train/loss", values={LR: 0.01})
    TrialLedger(config).write(trial)
    for output in (config.output, trial_folder(config, "0000")):
        unsent = UnsentRun(output, run.run_id)
        unsent.metrics().keep([Metric(f"loss_{len(output)}", 0.5, 1000, 1)])
    assert run_sweep(config).best == trial
    assert count_unsent(config.output) == UnsentCount()
    assert len(MlflowClient(run.uri).get_run(run.run_id).data.metrics) == 2


def test_a_tracker_that_goes_away_at_the_end_costs_no_result(config, monkeypatch):
    with open_run(config, "train") as run:
        pass
    stopped = finished(0, 0.5, status="stopped", values={LR: 0.01})
    record = RunRecord(run.run_id, run.uri, "digest", {}, {})
    write_run_record(trial_folder(config, "0000"), record)
    client = MlflowClient(run.uri)
    client.update_run(run.run_id, status="RUNNING")

    def refuse(**_options):
        raise OperationalError("SELECT 1", {}, Exception("connection refused"))

    monkeypatch.setattr(driver, "MlflowClient", refuse)
    _end_stopped_runs(config, run, (stopped,))
    assert count_unsent(config.output) == UnsentCount(runs=1, notes=("tags", "status"))
    send_unsent(config)
    stored = client.get_run(run.run_id)
    assert (stored.info.status, stored.data.tags["stopped_early"]) == ("FINISHED", "true")
