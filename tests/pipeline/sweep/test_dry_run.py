"""A dry run shows the trials that would run, and estimates only from what was measured."""

from dataclasses import replace

import pytest

from pipeline.storage import MissingFileError
from pipeline.sweep.dry_run import describe_sweep
from pipeline.sweep.ledger import TrialLedger
from pipeline.train.run_record import RunRecord, model_settings, write_run_record
from tests.pipeline.sweep.sweep_config import BATCH, LR, finished, sweep_config

SPACE = {
    LR: {"kind": "choice", "values": [0.02, 0.04]},
    BATCH: {"kind": "choice", "values": [4, 8]},
}
TRAIN = {"recipe_batch": 16, "workers": 1, "schedule": {"steps": 100}}


@pytest.fixture
def config(tmp_path):
    return sweep_config(SPACE, {"searcher": "grid"}, output=str(tmp_path), train=TRAIN)


def rows(text):
    return [
        line.split() for line in text.splitlines() if line[:1].isdigit() and "trials" not in line
    ]


def test_a_grid_is_listed_with_rates_and_steps_scaled_to_the_batch(config):
    assert [row[:6] for row in rows(describe_sweep(config))] == [
        ["0000", "to", "run", "4", "0.005", "400"],
        ["0001", "to", "run", "8", "0.01", "200"],
        ["0002", "to", "run", "4", "0.01", "400"],
        ["0003", "to", "run", "8", "0.02", "200"],
    ]


def test_without_a_finished_trial_no_time_is_invented(config):
    text = describe_sweep(config)
    assert "0 trials are done, 4 are left: at most 6400 images" in text
    assert "their time is not known" in text and "~" not in text


def test_the_time_is_estimated_from_finished_trials(config):
    ledger = TrialLedger(config)
    # 1,600 images in 160 s; one that was stopped early says nothing about a whole trial.
    ledger.write(finished(0, 0.5, values={LR: 0.02, BATCH: 4}, seconds=160.0))
    ledger.write(finished(1, 0.1, "stopped", values={LR: 0.02, BATCH: 8}, seconds=1.0))
    text = describe_sweep(config)
    assert "2 trials are done, 2 are left: at most 3200 images" in text
    assert "about 5m 20s one after the other (100 ms per image" in text
    assert text.count("~2m 40s") == 2


def test_before_a_trial_has_finished_those_that_have_begun_give_an_estimate(config):
    # 50 steps of 4 images in 40 s.
    begun = finished(0, 0.5, "running", values={LR: 0.02, BATCH: 4}, seconds=40.0)
    TrialLedger(config).write(replace(begun, steps=50))
    text = describe_sweep(config)
    assert "(200 ms per image in the trials so far, of which none has finished)" in text
    assert text.count("~5m 20s") == 4


def test_before_a_trial_has_begun_a_training_in_the_same_output_gives_an_estimate(config):
    metrics = {"train/loss": 1.0, "train/images_per_s": 20.0}
    result = {"metrics": metrics, "steps": 100}
    record = RunRecord("run", "", "d" * 64, model_settings(config), {}, result)
    write_run_record(config.output, replace(record, model={**record.model, "model.depth": "9"}))
    assert "their time is not known" in describe_sweep(config)  # of another detector
    write_run_record(config.output, record)
    text = describe_sweep(config)
    assert "about 5m 20s one after the other (50 ms per image in the training of this" in text
    assert text.count("~1m 20s") == 4


def test_optuna_shows_the_space_and_the_trials_so_far(config):
    config = config.model_copy(
        update={"sweep": config.sweep.model_copy(update={"searcher": "optuna"})}
    )
    first = finished(0, 0.5, values={LR: 0.02, BATCH: 4}, seconds=160.0)
    TrialLedger(config).write(replace(first, status="finished"))
    text = describe_sweep(config)
    assert [row[0] for row in rows(text)] == ["0000"]
    assert "7 trials to be proposed by Optuna" in text
    assert "choice 0.02, 0.04" in text


def test_epochs_need_the_shards(tmp_path):
    train = {"workers": 1, "global_batch": 4, "schedule": {"epochs": 3}}
    with pytest.raises(MissingFileError, match=r"run maskrcnn-ray prepare_shards first"):
        describe_sweep(sweep_config(SPACE, output=str(tmp_path), train=train))
