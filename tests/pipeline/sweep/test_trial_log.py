"""A sweep says how far it is."""

from pipeline.sweep.trial_log import TrialLog


class Trial:
    def __init__(self, name, finished):
        self.name, self.finished = name, finished
        self.config = {"trial": name, "values": {"train.optimizer.lr": 0.1}}

    def __str__(self):
        return self.name

    def is_finished(self):
        return self.finished


def test_each_ended_trial_is_counted_once(caplog):
    caplog.set_level("INFO")
    trials = [Trial("0000", True), Trial("0001", False), Trial("0002", False)]
    log = TrialLog(4)
    log.on_trial_start(1, trials, trials[1])
    # Ray marks a trial as finished before or after the call.
    log.on_trial_complete(2, trials, trials[0])
    log.on_trial_error(3, trials, trials[1])
    started, ended, failed = caplog.messages
    assert started == "trial 0001 starts: lr=0.1"
    assert ended.startswith("trial 0000 ended: 1 of 4 trials in ")
    assert failed.startswith("trial 0001 failed: 2 of 4 trials in ")
    assert failed.endswith(" left")
