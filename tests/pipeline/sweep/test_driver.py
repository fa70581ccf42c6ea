"""A complete sweep through Ray Tune, Ray Train and MLflow: stopped, resumed and extended."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from model.config.settings import ConfigError
from model.weights.storage.checksums import file_sha256
from pipeline.config import RunConfig, load_config
from pipeline.ingest.splits import prepare_split
from pipeline.sweep.driver import run_sweep
from pipeline.sweep.ledger import TrialLedger
from pipeline.sweep.sweep_record import SweepError
from tests.pipeline.sweep.sweep_config import LR, tiny_sweep

METRIC = "train/loss"


@pytest.fixture(scope="module")
def config(ray_cluster, tmp_path_factory):
    """A sweep of three trials: one learns, one barely does and is stopped, one fails.

    The rate of the last is so high that its loss is soon not finite.
    """
    space = {
        LR: {"kind": "grid", "values": [0.02, 1e-7, 1e30, 0.01, 0.005]},
        # More than the address space of a process can hold, so nothing is allocated.
        "model.box.hidden": {"kind": "grid", "values": [2**45], "when": {LR: 0.005}},
    }
    config = tiny_sweep(
        tmp_path_factory.mktemp("sweep"),
        {
            "space": space,
            "searcher": "grid",
            "trials": 3,
            "metric": METRIC,
            "mode": "min",
            "grace_steps": 2,
            "reduction_factor": 2,
            # One after the other, so that the second is compared with the first.
            "max_concurrent": 1,
        },
    )
    prepare_split(config, "train")
    prepare_split(config, "val")
    return config


@pytest.fixture(scope="module")
def result(config):
    return run_sweep(config)


@pytest.mark.ray
def test_one_trial_learns_one_is_stopped_early_and_one_fails_with_its_reason(config, result):
    assert [trial.status for trial in result.trials] == ["finished", "stopped", "failed"]
    learned, stopped, failed = result.trials
    assert learned.steps == 8 and [images for images, _ in learned.history] == [4, 8, 12, 16]
    assert 0 < stopped.steps < 8 and stopped.error is None
    assert "not finite" in failed.error or "NaN" in failed.error or "infinite" in failed.error
    assert result.best == learned and result.unfinished == 0


@pytest.mark.ray
def test_the_best_config_loads_as_a_training_config(config, result):
    best = load_config(result.best_config_url)
    assert best.train.optimizer.lr == result.best.values[LR] == 0.02
    assert best.model == config.model
    assert best.sweep == RunConfig().sweep


@pytest.mark.ray
def test_each_trial_is_an_ended_run_nested_under_the_sweeps_run(config, result):
    client = MlflowClient(tracking_uri=f"sqlite:///{config.output}/mlflow.db")
    parent = client.get_run(result.run_id)
    nested = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{result.run_id}'"
    )
    status = {float(run.data.params[LR]): run.info.status for run in nested}
    assert status == {0.02: "FINISHED", 1e-7: "FINISHED", 1e30: "FAILED"}


@pytest.mark.ray
def test_the_report_and_its_plots_are_in_the_folder_and_in_the_run(config, result):
    client = MlflowClient(tracking_uri=f"sqlite:///{config.output}/mlflow.db")
    logged = {Path(file.path).name for file in client.list_artifacts(result.run_id, "sweep")}
    page = Path(result.report_url).read_text()
    assert {"report.md", "curves.png", "parallel_coordinates.png", "learning_rate.png"} <= logged
    for name in logged:
        assert Path(result.report_url).with_name(name).read_bytes()
        assert name == "report.md" or f"({name})" in page
    assert "| 0001 |" in page and "stopped early" in page and "trial 0002 failed: " in page


@pytest.mark.ray
def test_stopped_trials_release_their_cpus(ray_cluster, result):
    deadline = time.monotonic() + 60
    while ray_cluster.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert ray_cluster.available_resources().get("CPU") == 2


@pytest.mark.ray
def test_a_finished_sweep_returns_at_once(config, result):
    assert run_sweep(config) == result


@pytest.mark.ray
def test_another_space_in_the_same_output_is_refused(config, result):
    space = {LR: {"kind": "grid", "values": [0.5]}}
    other = RunConfig.model_validate(
        config.model_dump() | {"sweep": config.sweep.model_dump() | {"space": space}}
    )
    with pytest.raises(SweepError, match="holds a sweep with other settings"):
        run_sweep(other)


@pytest.mark.ray
def test_a_resumed_sweep_is_extended_and_repeats_nothing_that_has_finished(config, result):
    """As if the sweep had been killed after the last step of its first trial.

    The ledger does not know yet that it has finished, and four trials are wanted now.
    """
    run = Path(config.output, "sweep", "trials", "0000", "train", "run.json")
    before = run.stat().st_mtime_ns
    ledger = TrialLedger(config)
    ledger.write(replace(ledger.get("0000"), status="running", steps=6, metrics={}))
    sweep = config.sweep.model_copy(update={"trials": 4})
    extended = run_sweep(config.model_copy(update={"sweep": sweep}))
    assert run.stat().st_mtime_ns == before
    assert [t.status for t in extended.trials[:3]] == ["finished", "stopped", "failed"]
    assert extended.trials[0].metrics[METRIC] == result.trials[0].metrics[METRIC]
    assert extended.trials[0].steps == 8
    assert extended.trials[3].values == {LR: 0.01}
    assert extended.trials[3].status in ("finished", "stopped")
    assert extended.run_id == result.run_id


@pytest.mark.ray
@pytest.mark.soak
def test_a_trial_out_of_memory_says_so_and_the_best_trial_is_registered(config, result):
    sweep = config.sweep.model_copy(update={"trials": 5, "register_best": True})
    extended = run_sweep(config.model_copy(update={"sweep": sweep}))
    failed = extended.trials[4]
    assert (failed.status, failed.values["model.box.hidden"]) == ("failed", 2**45)
    assert re.search(r"out of memory on cpu .*lower train\.global_batch", failed.error)
    assert "trial 0004 failed: " in Path(extended.report_url).read_text()

    assert extended.registered == "models:/maskrcnn-ray/1: there was no champion"
    client = MlflowClient(f"sqlite:///{config.output}/mlflow.db")
    version = client.get_model_version_by_alias("maskrcnn-ray", "champion")
    folder = Path(config.output, "sweep", "trials", extended.best.trial_id)
    record = json.loads((folder / "train" / "run.json").read_text())
    assert version.run_id == record["run_id"]
    weights = folder / "train" / "step_00000008" / "model.safetensors"
    assert version.tags["weights_sha256"] == file_sha256(weights)
    assert "metric/bbox/AP" in version.tags
    # Submitted again, it is finished, and registers nothing a second time.
    assert run_sweep(config.model_copy(update={"sweep": sweep})) == extended
    assert len(client.search_model_versions("name='maskrcnn-ray'")) == 1


@pytest.mark.ray
def test_no_trial_starts_when_the_time_is_over(config, tmp_path):
    """Neither does a sweep end with an exception that says nothing."""
    data = config.data.model_copy(
        update={f"{split}_shards": f"{config.output}/shards/{split}" for split in ("train", "val")}
    )
    sweep = config.sweep.model_copy(update={"max_hours": 0.5})
    late = config.model_copy(
        update={"output": str(tmp_path / "late"), "data": data, "sweep": sweep}
    )
    Path(late.output, "sweep").mkdir(parents=True)
    Path(late.output, "sweep", "clock.json").write_text(json.dumps({"seconds": 1801.0}))
    with pytest.raises(SweepError, match=r"raise sweep\.max_hours"):
        run_sweep(late)


@pytest.mark.ray
def test_a_metric_that_is_not_measured_is_refused(config):
    sweep = config.sweep.model_copy(update={"metric": "segm/AP"})
    with pytest.raises(ConfigError, match=r"sweep\.metric: segm/AP is not measured"):
        run_sweep(config.model_copy(update={"sweep": sweep}))
