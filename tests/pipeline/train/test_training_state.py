"""Settings of memory and speed reach the detector, and do not change what it learns."""

import pytest

from tests.pipeline.train.tiny_training import (
    assert_same_tensors,
    config_of,
    new_state,
    resume,
    save,
    train_until,
)

PLAIN = config_of()
CHECKPOINTED = config_of(activation_checkpointing=True)


def test_activation_checkpointing_changes_no_loss_and_no_weight():
    plain, checkpointed = new_state(PLAIN), new_state(CHECKPOINTED)
    assert checkpointed.detector.backbone.checkpoints_activations
    assert train_until(checkpointed, CHECKPOINTED, 3) == train_until(plain, PLAIN, 3)
    assert_same_tensors(checkpointed.detector.state_dict(), plain.detector.state_dict())


@pytest.mark.parametrize(("before", "after"), [(PLAIN, CHECKPOINTED), (CHECKPOINTED, PLAIN)])
def test_a_run_resumes_with_activation_checkpointing_on_or_off(before, after, tmp_path):
    whole, state = new_state(PLAIN), new_state(before)
    losses = train_until(whole, PLAIN, 3)
    train_until(state, before, 2)
    save(state, tmp_path / "c", 2)
    assert train_until(resume(after, tmp_path / "c"), after, 3) == losses[2:]
