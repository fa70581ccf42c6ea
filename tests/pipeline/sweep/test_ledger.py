"""The ledger remembers every trial, whatever is killed, and names damaged files."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.storage import DamagedRecordError
from pipeline.sweep.ledger import Copy, TrialLedger, TrialRecord
from tests.pipeline.sweep.sweep_config import BATCH, LR, finished, sweep_config


@pytest.fixture
def config(tmp_path):
    return sweep_config({}, output=str(tmp_path / "output"))


def test_a_trial_is_read_as_it_was_written(config):
    values = {LR: 0.1, BATCH: 4, "train.schedule": {"kind": "multistep", "milestones": [1, 2]}}
    record = finished(3, 0.25, values=values, seconds=1.5, weights=f"{config.output}/step_1")
    record = replace(record, copies=(Copy(20, "0001", {LR: 0.2}),))
    TrialLedger(config).write(record)
    assert TrialLedger(config).records() == (record,)


def test_the_ledger_is_valid_after_the_output_was_moved(config, tmp_path):
    TrialLedger(config).write(finished(0, 0.1, weights=f"{config.output}/step_1"))
    Path(config.output).rename(tmp_path / "moved")
    moved = config.model_copy(update={"output": str(tmp_path / "moved")})
    assert TrialLedger(moved).get("0000").weights == f"{tmp_path / 'moved'}/step_1"


def test_unfinished_trials_go_on_and_missing_ones_start(config):
    ledger = TrialLedger(config)
    ledger.write(finished(0, 0.1))
    ledger.write(finished(1, None, "running"))
    ledger.write(finished(3, None, "failed", error="boom"))
    started, new = ledger.unfinished(6)
    assert [record.trial_id for record in started] == ["0001"]
    assert new == [2, 4, 5]
    assert ledger.unfinished(1) == ([ledger.get("0001")], [])


def test_validations_after_a_step_back_replace_the_later_ones():
    record = TrialRecord("0000", {}).with_validation(10, 0.1).with_validation(20, 0.2)
    assert record.with_validation(15, 0.3).history == ((10, 0.1), (15, 0.3))


@pytest.mark.parametrize("content", ["", '{"trial_id": "0000"', '{"trial_id": "0000"}', "[]"])
def test_a_damaged_file_is_named_with_the_way_out(config, content):
    TrialLedger(config).write(finished(0, 0.1))
    file = Path(config.output) / "sweep" / "ledger" / "0000.json"
    file.write_text(content)
    with pytest.raises(DamagedRecordError, match=r"ledger/0000\.json.*delete"):
        TrialLedger(config)
