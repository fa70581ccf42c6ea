"""A sweep says how far it is."""

from types import SimpleNamespace

from pipeline.sweep.trial_log import TrialLog


def trial(name, finished):
    return SimpleNamespace(trial_id=name, config={"lr": 0.1}, is_finished=lambda: finished)


def test_each_ended_trial_is_counted_once(caplog):
    caplog.set_level("INFO")
    trials = [trial("a", True), trial("b", False), trial("c", False)]
    log = TrialLog(4)
    log.on_trial_start(1, trials, trials[1])
    # Ray marks a trial as finished before or after the call.
    log.on_trial_complete(2, trials, trials[0])
    log.on_trial_error(3, trials, trials[1])
    started, ended, failed = caplog.messages
    assert started == "trial b starts: lr=0.1"
    assert ended.startswith("trial a ended: 1 of 4 trials in ")
    assert failed.startswith("trial b failed: 2 of 4 trials in ")
    assert failed.endswith(" left")
