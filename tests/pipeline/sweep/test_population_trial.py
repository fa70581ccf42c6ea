"""A copied checkpoint replaces those of a trial, and a copy that was cut short does no harm."""

import json
from pathlib import Path

import pytest

from pipeline.storage import MissingFileError
from pipeline.sweep import population_trial
from pipeline.sweep.population_trial import copy_checkpoint
from pipeline.train.checkpoint_store import list_checkpoints

FILES = ("model.safetensors", "model.json", "training.pt", "checksums.json")


def save(output, step, content):
    folder = Path(output) / "train" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text(content)
    return folder.name


def weights(output):
    return {
        url.rpartition("/")[2]: (Path(url) / "model.safetensors").read_text()
        for url in list_checkpoints(str(output))
    }


@pytest.fixture
def trials(tmp_path):
    """A trial to copy with two checkpoints, and one to be replaced with a later one of its own."""
    good, weak = str(tmp_path / "good"), str(tmp_path / "weak")
    save(good, 10, "good 10")
    save(good, 20, "good 20")
    save(weak, 30, "weak")
    (Path(weak) / "train" / "best.json").write_text("{}")
    (Path(weak) / "train" / "run.json").write_text("{}")
    return good, weak


def test_the_copy_is_the_only_checkpoint_and_the_run_stays(trials):
    good, weak = trials
    assert copy_checkpoint(good, weak, "step_00000010") == 10
    assert weights(weak) == {"step_00000010": "good 10"}
    assert weights(good) == {"step_00000010": "good 10", "step_00000020": "good 20"}
    assert not (Path(weak) / "train" / "best.json").exists()
    assert (Path(weak) / "train" / "run.json").exists()


def test_the_validation_of_the_copied_weights_comes_along_and_no_other(trials):
    """A trial that goes on from it neither repeats it nor counts those of replaced weights."""
    good, weak = trials
    first, second = ({"step": step, "value": step / 100, "metrics": {}} for step in (10, 20))
    content = {"metric": "segm/AP", "validations": [first, second], "without_value": [5]}
    best = {"checkpoint": "step_00000020", **content}
    (Path(good) / "train" / "best.json").write_text(json.dumps(best))
    copy_checkpoint(good, weak, "step_00000010")
    assert json.loads((Path(weak) / "train" / "best.json").read_text()) == {
        "checkpoint": "step_00000010",
        "metric": "segm/AP",
        "validations": [first],
        "without_value": [],
    }
    copy_checkpoint(good, weak, "step_00000020")
    assert json.loads((Path(weak) / "train" / "best.json").read_text())["validations"] == [second]
    save(good, 30, "not validated yet")
    copy_checkpoint(good, weak, "step_00000030")
    assert not (Path(weak) / "train" / "best.json").exists()


def test_a_checkpoint_that_was_deleted_meanwhile_is_replaced_by_the_newest(trials):
    good, weak = trials
    assert copy_checkpoint(good, weak, "step_00000005") == 20
    assert weights(weak) == {"step_00000020": "good 20"}


def test_nothing_is_lost_if_there_is_nothing_to_copy(trials, tmp_path):
    _, weak = trials
    with pytest.raises(MissingFileError, match="no checkpoint to copy"):
        copy_checkpoint(str(tmp_path / "empty"), weak, "step_00000010")
    assert weights(weak) == {"step_00000030": "weak"}


@pytest.mark.parametrize("killed_in", ["upload_folder", "write_json", "move_folder"])
def test_a_trial_that_is_killed_while_it_copies_has_old_or_new_weights(
    trials, monkeypatch, killed_in
):
    good, weak = trials

    def kill(*_arguments):
        raise SystemExit(9)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(population_trial.storage, killed_in, kill)
        copy_checkpoint(good, weak, "step_00000010")
    population_trial._finish_copy(weak)
    old, new = {"step_00000030": "weak"}, {"step_00000010": "good 10"}
    assert weights(weak) == (new if killed_in == "move_folder" else old)
    assert copy_checkpoint(good, weak, "step_00000020") == 20
