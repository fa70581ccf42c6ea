"""Synchronized batch norms: on CPUs they train like batch norms, with weights of the same names."""

import logging

from model import load_detector
from pipeline.train import training_state
from tests.pipeline.train.tiny_training import (
    assert_same_tensors,
    config_of,
    new_state,
    save,
    train_until,
)

SYNCED, PLAIN = config_of(norm="sync_batch_norm"), config_of(norm="batch_norm")


def test_on_a_cpu_a_training_equals_one_with_batch_norm():
    synced, plain = new_state(SYNCED), new_state(PLAIN)
    assert train_until(synced, SYNCED, 2) == train_until(plain, PLAIN, 2)
    assert_same_tensors(synced.detector.state_dict(), plain.detector.state_dict())


def test_weights_of_either_start_a_training_of_the_other(tmp_path):
    for config, other in ((SYNCED, PLAIN), (PLAIN, SYNCED)):
        state = new_state(config)
        train_until(state, config, 1)
        folder = tmp_path / config.model.backbone.norm
        save(state, folder, 1)
        train = other.train.model_copy(update={"weights": str(folder)})
        started = new_state(other.model_copy(update={"train": train}))
        assert_same_tensors(started.detector.state_dict(), state.detector.state_dict())
        assert load_detector(folder).detector.config.backbone.norm == config.model.backbone.norm


def test_several_workers_on_cpus_say_once_that_they_do_not_synchronize(monkeypatch, caplog):
    monkeypatch.setattr(training_state, "worker_count", lambda: 2)
    monkeypatch.setattr(training_state, "DistributedDataParallel", lambda model, **options: model)
    with caplog.at_level(logging.INFO):
        new_state(PLAIN).distributed_model()
        assert "sync_batch_norm" not in caplog.text
        new_state(SYNCED).distributed_model()
    assert caplog.text.count("sync_batch_norm on CPUs") == 1
