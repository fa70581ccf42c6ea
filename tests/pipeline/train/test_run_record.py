"""An output folder continues its own training, and refuses another model, data or recipe."""

import logging
from dataclasses import replace

import pytest

from pipeline.config import DataConfig, RunConfig, TrainConfig
from pipeline.storage import StorageError
from pipeline.train.run_record import (
    OPERATIONAL,
    SAMPLING,
    RunMismatchError,
    RunRecord,
    check_resumable,
    ended_at,
    is_finished,
    read_run_record,
    recipe_settings,
    write_run_record,
)


def record(steps=None, digest="d", data=None, **train):
    config = RunConfig.model_validate(
        {"train": {"schedule": {"steps": 100}, **train}, "data": data or {}}
    )
    return RunRecord(
        run_id="r",
        tracking_uri="u",
        dataset_digest=digest,
        model={"model.num_classes": "5"},
        recipe=recipe_settings(config),
        result=None if steps is None else {"steps": steps},
    )


def test_a_record_is_read_as_it_was_written(tmp_path):
    output = str(tmp_path)
    assert read_run_record(output) is None
    write_run_record(output, record(steps=3))
    assert read_run_record(output) == record(steps=3)
    assert (tmp_path / "train" / "run.json").exists()


def test_the_steps_at_which_a_training_ended_are_known_when_it_goes_on_and_is_interrupted():
    ended = record(steps=3)
    goes_on = replace(record(), ended_at=ended_at(ended))
    assert [ended_at(each) for each in (None, record(), ended, goes_on)] == [None, None, 3, 3]


def test_a_run_is_finished_when_it_has_taken_the_configured_steps():
    assert not is_finished(record(), record())
    assert is_finished(record(steps=100), record())
    assert not is_finished(record(steps=100), record(schedule={"steps": 120}))


def test_other_data_is_refused():
    with pytest.raises(RunMismatchError, match="other data"):
        check_resumable(record(), record(digest="e"), "out")


def test_another_model_is_refused_and_the_difference_is_reported():
    other = RunRecord(**{**vars(record()), "model": {"model.num_classes": "80"}})
    with pytest.raises(RunMismatchError, match=r"model\.num_classes: 5 -> 80"):
        check_resumable(record(), other, "out")


def test_an_unfinished_run_continues_with_a_changed_recipe_and_logs_the_change(caplog):
    with caplog.at_level(logging.WARNING):
        check_resumable(record(), record(optimizer={"lr": 0.5}), "out")
    assert "train.optimizer.lr: 0.02 -> 0.5" in caplog.text


def test_a_finished_run_is_not_returned_for_another_recipe():
    with pytest.raises(RunMismatchError, match=r"train\.optimizer\.lr: 0\.02 -> 0\.5"):
        check_resumable(record(steps=100), record(optimizer={"lr": 0.5}), "out")


def test_a_finished_run_can_be_extended():
    check_resumable(record(steps=100), record(schedule={"steps": 120}), "out")


def test_operational_settings_are_not_part_of_the_recipe(caplog):
    elsewhere = record(workers=2, cpus_per_worker=4.0, log_every=1, device="cpu")
    check_resumable(record(steps=100), elsewhere, "out")
    assert not caplog.records


def without(recorded, key):
    """Return the record that an earlier version without this setting wrote."""
    return replace(recorded, recipe={k: v for k, v in recorded.recipe.items() if k != key})


def test_a_setting_newer_than_the_record_had_its_default():
    old = without(record(steps=100), "train.schedule.final_factor")
    check_resumable(old, record(), "out")
    with pytest.raises(RunMismatchError, match=r"\(train\.schedule\.final_factor: 0\.0 -> 0\.1\)"):
        check_resumable(old, record(schedule={"steps": 100, "final_factor": 0.1}), "out")


def test_the_record_of_a_moved_output_refers_to_its_new_place(tmp_path):
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    uri = f"sqlite:///{old}/mlflow.db"  # as earlier versions recorded it
    result = {"steps": 4, "checkpoint_url": f"{old}/train/step_4"}
    write_run_record(old, replace(record(), tracking_uri=uri, result=result))
    assert read_run_record(old).tracking_uri == "sqlite:///{output}/mlflow.db"
    write_run_record(old, read_run_record(old))
    (tmp_path / "old").rename(tmp_path / "new")
    moved = read_run_record(new)
    assert moved.result["checkpoint_url"] == f"{new}/train/step_4"
    assert moved.tracking_uri == "sqlite:///{output}/mlflow.db"
    assert old not in (tmp_path / "new/train/run.json").read_text()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"run_id": "r", "what": 1}'])
def test_a_damaged_record_is_named_with_the_remedy(tmp_path, content):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/run.json").write_text(content)
    with pytest.raises(StorageError, match=r"run\.json.*(delete|rename) it"):
        read_run_record(str(tmp_path))


@pytest.mark.parametrize("setting", ["activation_checkpointing", "compile"])
def test_what_changes_memory_and_time_alone_is_operational(setting):
    assert record(**{setting: True}).recipe == record().recipe


def test_sampling_and_augmentation_belong_to_the_recipe(caplog):
    changed = record(data={"flip_probability": 0.0, "scale_jitter": {}, "decode_threads": 7})
    check_resumable(record(), changed, "out")
    [message] = caplog.messages
    assert "data.flip_probability: 0.5 -> 0.0" in message
    assert "data.scale_jitter.side: unset -> 1024" in message
    assert "decode_threads" not in message


def test_every_name_of_a_setting_exists():
    assert set(DataConfig.model_fields) >= SAMPLING
    assert set(TrainConfig.model_fields) >= OPERATIONAL
