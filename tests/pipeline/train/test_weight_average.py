"""Averaged weights follow their formula, are what is saved and loaded, and resume exactly."""

import copy
import logging

import pytest
import torch
from torch import nn

from model import load_detector
from model.config.settings import ConfigError, check_settings
from pipeline.config import TrainConfig
from pipeline.train import training_state
from pipeline.train.checkpoint import load_saved_state
from pipeline.train.schedule import scale_recipe
from pipeline.train.weight_average import WeightAverage, average_decay
from tests.pipeline.train.tiny_training import (
    assert_same_tensors,
    batch_of,
    config_of,
    new_state,
    resume,
    save,
    train_until,
)

DECAY = 0.9
AVERAGED = config_of(ema_decay=DECAY)


def change(model, seed):
    """Replace what a training step changes: trained parameters and batch norm buffers."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.rand(parameter.shape, generator=rng)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand(buffer.shape, generator=rng))
        if name.endswith("num_batches_tracked"):
            buffer.add_(1)


def small_model():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 4))
    model[2].requires_grad_(False)
    return model


def test_the_average_is_that_of_its_formula():
    model = small_model()
    average = WeightAverage(model, DECAY)
    expected = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for update in range(100):
        with torch.no_grad():
            for tensor in model[0].parameters():
                tensor.copy_(torch.rand_like(tensor))
            model[1].running_var.copy_(torch.rand(4))
            model[1].num_batches_tracked.add_(1)
        average.update()
        decay = min(DECAY, (1 + update) / (10 + update))
        for name, tensor in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
    averages = average.detector.state_dict()
    expected["1.num_batches_tracked"] = torch.tensor(100.0).double()
    for name, tensor in averages.items():
        # 100 roundings of fp32.
        assert torch.allclose(tensor.double(), expected[name], atol=1e-5), name
    assert torch.equal(averages["2.weight"], model[2].weight)


def test_the_first_updates_forget_the_initial_weights():
    assert [average_decay(0.9998, n) for n in (0, 1, 8)] == [0.1, 2 / 11, 0.5]
    assert average_decay(0.9998, 10**6) == 0.9998
    assert average_decay(0.3, 100) == 0.3


def test_training_itself_does_not_depend_on_the_average():
    plain, averaged = new_state(config_of()), new_state(AVERAGED)
    assert train_until(plain, config_of(), 3) == train_until(averaged, AVERAGED, 3)
    assert_same_tensors(averaged.detector.state_dict(), plain.detector.state_dict())
    assert plain.inference_detector is plain.detector


def test_the_average_changes_with_every_step_and_its_frozen_parts_do_not():
    state = new_state(AVERAGED)
    before = copy.deepcopy(state.inference_detector.state_dict())
    train_until(state, AVERAGED, 2)
    after, trained = state.inference_detector.state_dict(), state.detector.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {name for name in trained if not torch.equal(trained[name], before[name])}
    assert not any(name.startswith(("backbone.conv1", "backbone.layer1")) for name in changed)
    assert "backbone.layer4.1.bn2.running_var" in changed
    assert "backbone.layer4.1.bn2.num_batches_tracked" in changed
    assert state.average.updates == 2


@torch.no_grad()
def test_predictions_use_the_average_of_the_last_update():
    """Weights that the layers folded before an update must not be used after it."""
    state = new_state(AVERAGED)
    detector, images = state.inference_detector, batch_of(0).images
    before = detector.features(images)
    for seed in range(3):
        change(state.detector, seed)
        state.average.update()
        features = detector.features(images)
        for new, fresh in zip(features, copy.deepcopy(detector).features(images), strict=True):
            assert torch.equal(new, fresh)
        assert not torch.equal(features[0], before[0])
        before = features


def test_a_checkpoint_holds_the_average_and_loads_as_it(tmp_path):
    state = new_state(AVERAGED)
    train_until(state, AVERAGED, 2)
    save(state, tmp_path / "c", 2)
    loaded = load_detector(tmp_path / "c")
    assert_same_tensors(loaded.detector.state_dict(), state.average.detector.state_dict())
    saved = load_saved_state(tmp_path / "c")
    trained = dict(state.detector.state_dict())
    assert saved.trained_weights.keys() < trained.keys()
    assert_same_tensors(
        saved.trained_weights, {name: trained[name] for name in saved.trained_weights}
    )


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(channels_last, tmp_path):
    whole = new_state(AVERAGED)
    losses = train_until(whole, AVERAGED, 4)
    config = config_of(ema_decay=DECAY, channels_last=channels_last)
    first = new_state(AVERAGED)
    train_until(first, AVERAGED, 2)
    save(first, tmp_path / "c", 2)
    resumed = resume(config, tmp_path / "c")
    assert_same_tensors(resumed.detector.state_dict(), first.detector.state_dict())
    assert_same_tensors(resumed.average.detector.state_dict(), first.average.detector.state_dict())
    if channels_last:  # another memory format sums in another order
        assert train_until(resumed, config, 4) == losses[2:]
        assert_same_tensors(resumed.detector.state_dict(), whole.detector.state_dict())
        expected = whole.average.detector.state_dict()
        assert_same_tensors(resumed.average.detector.state_dict(), expected)
        assert resumed.average.updates == 4


def test_switched_on_later_the_average_begins_with_the_weights_of_the_checkpoint(tmp_path, caplog):
    state = new_state(config_of())
    train_until(state, config_of(), 2)
    save(state, tmp_path / "c", 2)
    with caplog.at_level(logging.INFO):
        resumed = resume(AVERAGED, tmp_path / "c")
    assert "the average begins with the weights of this checkpoint" in caplog.text
    assert_same_tensors(resumed.average.detector.state_dict(), state.detector.state_dict())
    train_until(resumed, AVERAGED, 3)
    assert resumed.average.updates == 1


def test_switched_off_later_training_continues_with_the_weights_in_training(tmp_path, caplog):
    state = new_state(AVERAGED)
    train_until(state, AVERAGED, 2)
    save(state, tmp_path / "c", 2)
    resumed = resume(config_of(), tmp_path / "c")
    assert "the averaged weights of the checkpoint are dropped" in caplog.text
    assert_same_tensors(resumed.inference_detector.state_dict(), state.detector.state_dict())
    whole = new_state(config_of())
    assert train_until(resumed, config_of(), 3) == train_until(whole, config_of(), 3)[2:]


def test_parts_that_are_trained_later_join_the_average(tmp_path):
    state = new_state(AVERAGED)
    train_until(state, AVERAGED, 2)
    save(state, tmp_path / "c", 2)
    unfrozen = config_of(ema_decay=DECAY, frozen_stages=0)
    resumed = resume(unfrozen, tmp_path / "c")
    train_until(resumed, unfrozen, 3)
    trained = resumed.detector.backbone.conv1.weight
    average = resumed.average.detector.backbone.conv1.weight
    assert not torch.equal(average, state.detector.backbone.conv1.weight)
    assert not torch.equal(average, trained)


def test_the_statistics_of_both_detectors_are_synchronized(monkeypatch):
    synchronized = []
    monkeypatch.setattr(training_state, "average_norm_statistics", synchronized.append)
    state = new_state(AVERAGED)
    state.average_norm_statistics()
    assert synchronized == [state.detector, state.average.detector]


def test_the_decay_spans_the_same_number_of_images_at_every_batch_size():
    train = TrainConfig(global_batch=32, recipe_batch=16, ema_decay=0.9)
    assert scale_recipe(train).ema_decay == pytest.approx(0.81)
    assert scale_recipe(TrainConfig(global_batch=32, recipe_batch=16)).ema_decay == 0.0


@pytest.mark.parametrize("decay", [1.0, -0.1, 2])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ConfigError, match=r"ema_decay: must be (less|greater)"):
        check_settings(TrainConfig, {"ema_decay": decay})
