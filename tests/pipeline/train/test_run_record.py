import logging

import pytest

from pipeline.config import RunConfig
from pipeline.train.run_record import (
    RunMismatchError,
    RunRecord,
    check_continuable,
    is_finished,
    recipe_settings,
    recorded_run,
    write_record,
)


def record(steps=None, digest="d", **train):
    config = RunConfig.model_validate({"train": {"schedule": {"steps": 100}, **train}})
    return RunRecord(
        run_id="r",
        tracking_uri="u",
        dataset_digest=digest,
        model={"model.num_classes": "5"},
        recipe=recipe_settings(config),
        result=None if steps is None else {"steps": steps},
    )


def test_a_record_is_read_as_it_was_written(tmp_path):
    url = str(tmp_path / "run.json")
    assert recorded_run(url) is None
    write_record(url, record(steps=3))
    assert recorded_run(url) == record(steps=3)


def test_a_run_is_finished_when_it_took_the_wanted_steps():
    assert not is_finished(record(), record())
    assert is_finished(record(steps=100), record())
    assert not is_finished(record(steps=100), record(schedule={"steps": 120}))


def test_other_data_are_refused():
    with pytest.raises(RunMismatchError, match="other data"):
        check_continuable(record(), record(digest="e"), "out")


def test_another_model_is_refused_and_the_difference_named():
    other = RunRecord(**{**vars(record()), "model": {"model.num_classes": "80"}})
    with pytest.raises(RunMismatchError, match=r"model\.num_classes: 5 -> 80"):
        check_continuable(record(), other, "out")


def test_an_unfinished_run_goes_on_with_a_changed_recipe_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        check_continuable(record(), record(optimizer={"lr": 0.5}), "out")
    assert "train.optimizer.lr: 0.02 -> 0.5" in caplog.text


def test_a_finished_run_is_not_passed_off_as_one_with_another_recipe():
    with pytest.raises(RunMismatchError, match=r"train\.optimizer\.lr: 0\.02 -> 0\.5"):
        check_continuable(record(steps=100), record(optimizer={"lr": 0.5}), "out")


def test_a_finished_run_can_be_prolonged():
    check_continuable(record(steps=100), record(schedule={"steps": 120}), "out")


def test_where_a_run_is_computed_is_not_part_of_its_recipe(caplog):
    elsewhere = record(workers=2, cpus_per_worker=4.0, log_every=1, device="cpu")
    check_continuable(record(steps=100), elsewhere, "out")
    assert not caplog.records
