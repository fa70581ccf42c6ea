"""Steps with NaN or infinite gradients are skipped without a trace, but not too many in a row."""

import pickle

import pytest
import torch
from torch import nn

from pipeline.train import non_finite
from pipeline.train.non_finite import NonFiniteLossError
from pipeline.train.norm_statistics import NormStatistics
from tests.pipeline.train.toy_training import assert_same_weights, losses, train


@pytest.mark.usefixtures("uninitialized_memory_is_nan")
def test_a_step_that_overflows_in_fp16_is_skipped():
    """The scaler of fp16 with fp32 kernels: a CPU trains everything but the casts."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    reports, toy, _ = train(scaler=scaler, overflows_in=[0])
    expected_reports, expected, _ = train(start=1)
    assert reports[0].gradient_norm == float("inf")
    assert scaler.get_scale() == 2.0**15
    # Scales are powers of two: scaling and unscaling do not round.
    assert losses(reports[1:]) == losses(expected_reports)
    assert_same_weights(toy, expected)


def test_overflows_in_many_steps_in_a_row_end_the_training(monkeypatch):
    monkeypatch.setattr(non_finite, "MAX_SKIPPED_STEPS", 2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    train(scaler=scaler, overflows_in=[0, 2])  # not in a row
    with pytest.raises(NonFiniteLossError, match=r"2 steps up to step 2 .* train.precision=bf16"):
        train(scaler=scaler, overflows_in=[1, 2])
    error = non_finite.SkippedStepsError(2, limit=2, with_loss_scale=True)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_step_with_nan_can_be_skipped_in_fp32_and_names_its_images():
    skipped = []
    reports, toy, _ = train(nan_image=3, max_skipped_steps=1, skipped=skipped.append, log_every=2)
    expected_reports, expected, _ = train(start=1)
    assert [(error.step, error.what) for error in skipped] == [(0, "loss")]
    assert 3 in skipped[0].image_ids
    # The mean over two steps leaves the skipped one out.
    assert losses(reports)[0] == pytest.approx(losses(expected_reports)[0])
    assert_same_weights(toy, expected)


def test_a_skipped_step_leaves_no_trace_in_the_statistics_of_norms():
    norm = nn.BatchNorm2d(2)
    statistics = NormStatistics(nn.Sequential(norm, nn.Conv2d(2, 2, 1)))
    norm(torch.rand(2, 2, 3, 3))
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    statistics.keep()
    norm(torch.full((2, 2, 3, 3), float("nan")))
    statistics.restore_unless(torch.tensor(False))
    assert torch.equal(norm.running_mean, mean) and torch.equal(norm.running_var, variance)
    norm(torch.rand(2, 2, 3, 3))
    statistics.restore_unless(torch.tensor(True))
    assert not torch.equal(norm.running_mean, mean)


def test_more_skipped_steps_in_a_row_than_allowed_end_the_training():
    infinite = {"overflows_in": [1, 2]}
    train(**infinite, max_skipped_steps=2)
    with pytest.raises(NonFiniteLossError, match="2 steps up to step 2 became NaN") as raised:
        train(**infinite, max_skipped_steps=1)
    assert "loss scale" not in str(raised.value)
