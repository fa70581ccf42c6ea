"""Interrupted trials go on first, then new ones start, as many at once as there is room for."""

from dataclasses import replace
from pathlib import Path

import pytest
from ray.tune.search import Searcher

from pipeline.sweep.ledger import TrialLedger
from pipeline.sweep.proposals import proposals
from pipeline.sweep.trial_source import TrialSource
from tests.pipeline.sweep.sweep_config import LR, finished, sweep_config

SPACE = {LR: {"kind": "uniform", "low": 0.1, "high": 0.2}}


def start(config, count=3, concurrent=2):
    ledger = TrialLedger(config)
    return ledger, TrialSource(config, ledger, proposals(config, ()), count, concurrent)


@pytest.fixture
def config(tmp_path):
    return sweep_config(SPACE, output=str(tmp_path))


def test_a_trial_is_in_the_ledger_before_it_starts(config):
    ledger, source = start(config)
    suggested = source.suggest("a")
    assert suggested == {"trial": "0000", "values": ledger.get("0000").values, "weights": None}
    # A sweep that is killed now gives the same trial the same values.
    assert start(config)[1].suggest("b") == suggested


def test_no_more_trials_run_at_once_than_there_is_room_for(config):
    _, source = start(config)
    assert [source.suggest(name)["trial"] for name in "ab"] == ["0000", "0001"]
    assert source.suggest("c") is None
    source.on_trial_complete("a")
    assert source.suggest("c")["trial"] == "0002"


def test_interrupted_trials_go_on_before_new_ones_start(config):
    ledger = TrialLedger(config)
    ledger.write(finished(0, 0.1))
    ledger.write(finished(1, None, "running", values={LR: 0.11}))
    _, source = start(config)
    assert source.suggest("a") == {"trial": "0001", "values": {LR: 0.11}, "weights": None}
    assert source.suggest("b")["trial"] == "0002"


def test_a_lost_trial_starts_again_before_the_search_ends(config):
    ledger, source = start(config, count=1)
    source.suggest("a")
    assert source.suggest("b") is None  # the running one may yet be lost
    source.on_trial_complete("a", error=True)
    source.start_again(ledger.get("0000"))
    assert source.suggest("b")["trial"] == "0000"
    source.on_trial_complete("b")
    assert source.suggest("c") == Searcher.FINISHED


def test_a_warm_trial_begins_with_the_best_finished_one(config):
    warm = config.model_copy(
        update={"sweep": config.sweep.model_copy(update={"warm_start": "best"})}
    )
    ledger, source = start(warm, count=5)
    assert source.suggest("a")["weights"] is None
    for number, value, status in ((0, 0.3, "finished"), (3, 0.2, "finished"), (4, 0.9, "stopped")):
        ledger.write(finished(number, value, status))
        folder = Path(config.output, "sweep", "trials", f"{number:04d}", "train", "step_00000010")
        folder.mkdir(parents=True)
        for name in ("model.safetensors", "model.json"):
            (folder / name).write_text("{}")
    suggested = source.suggest("b")
    best = f"{config.output}/sweep/trials/0000/train/step_00000010"
    assert suggested["weights"] == ledger.get(suggested["trial"]).weights == best
    # It keeps that beginning when it is resumed after a better one has finished.
    ledger.write(replace(ledger.get("0000"), status="stopped"))
    _, resumed = start(warm, count=5)
    assert resumed.suggest("c")["weights"] == best
