"""A NaN names its cause: the images and the learning rate, or the weights that were loaded."""

import pickle

import pytest

from pipeline.train.non_finite import NonFiniteLossError


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_training_from_scratch_names_the_images(what):
    error = pickle.loads(pickle.dumps(NonFiniteLossError(0, [7, 9], what)))
    assert error.explain(0, loaded_from=None) == str(error)
    assert f"the {what} became NaN or infinite at step 0" in str(error)
    assert "[7, 9]" in str(error)


def test_a_loss_that_is_not_finite_before_the_first_update_names_the_weights_not_the_images():
    message = NonFiniteLossError(40, [7, 9], "loss").explain(40, "train/step_00000040")
    assert "infinite in the first step with the weights of train/step_00000040" in message
    assert "Use other weights" in message
    assert "image" not in message and "annotations" not in message and "7" not in message


@pytest.mark.parametrize(("step", "what"), [(41, "loss"), (40, "gradient")])
def test_after_the_first_update_the_weights_are_those_of_this_training(step, what):
    error = NonFiniteLossError(step, [7, 9], what)
    assert error.explain(40, "run/train/step_00000040") == str(error)
