"""A checkpoint restores the whole training state, is replaced atomically, and runs no code."""

import pytest
import torch

from model import ModelConfig, build_detector
from model.weights import load_network
from pipeline.config import OptimizerConfig
from pipeline.train.checkpoint import (
    CheckpointError,
    SavedState,
    gather_random_states,
    load_checkpoint_weights,
    load_saved_state,
    restore_random_state,
    save_checkpoint,
)
from pipeline.train.optimizer import build_optimizer, optimizer_state

CPU = torch.device("cpu")


def tiny_detector(width=8, num_classes=2):
    return build_detector(
        ModelConfig.model_validate(
            {
                "num_classes": num_classes,
                "backbone": {
                    "depth": 18,
                    "norm": "group_norm",
                    "frozen_stages": 0,
                    "width": width,
                },
                "fpn": {"channels": 16},
                "box": {"hidden": 16},
                "mask": {"channels": 16, "layers": 1},
            }
        )
    )


@pytest.fixture
def trained():
    """A detector and its optimizer after one step."""
    detector = tiny_detector()
    optimizer = build_optimizer(detector, OptimizerConfig())
    sum(p.square().sum() for p in detector.parameters()).backward()
    optimizer.step()
    return detector, optimizer


def saved_state(detector, optimizer):
    return SavedState(
        step=7,
        optimizer=optimizer_state(optimizer, detector),
        scaler={"scale": 2.0},
        random_states=gather_random_states(CPU),
    )


def test_a_checkpoint_restores_everything(trained, tmp_path):
    detector, optimizer = trained
    save_checkpoint(tmp_path / "c", detector, saved_state(detector, optimizer))

    other = tiny_detector()
    load_checkpoint_weights(tmp_path / "c", other)
    for name, weight in detector.state_dict().items():
        assert torch.equal(other.state_dict()[name], weight), name
    state = load_saved_state(tmp_path / "c")
    assert (state.step, state.scaler) == (7, {"scale": 2.0})
    expected = optimizer_state(optimizer, detector)
    assert state.optimizer.keys() == expected.keys()
    for name, state_of_parameter in expected.items():
        momentum = state.optimizer[name]["momentum_buffer"]
        assert torch.equal(momentum, state_of_parameter["momentum_buffer"])


def test_a_checkpoint_loads_as_a_detector(trained, tmp_path):
    detector, optimizer = trained
    save_checkpoint(tmp_path / "c", detector, saved_state(detector, optimizer))
    assert load_network(tmp_path / "c").config == detector.config


def test_saving_again_replaces_the_checkpoint_and_leaves_no_other_files(trained, tmp_path):
    detector, _ = trained
    save_checkpoint(tmp_path / "c", detector, SavedState(step=1))
    save_checkpoint(tmp_path / "c", detector, SavedState(step=2))
    assert load_saved_state(tmp_path / "c").step == 2
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_failed_save_leaves_the_old_checkpoint_intact(trained, tmp_path):
    detector, _ = trained
    save_checkpoint(tmp_path / "c", detector, SavedState(step=1))
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path / "c", detector, SavedState(step=2, scaler={"f": lambda: 0}))
    assert load_saved_state(tmp_path / "c").step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_code_in_a_checkpoint_is_not_executed(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (tmp_path.joinpath("executed").write_text, ("done",))

    torch.save({"step": Malicious()}, tmp_path / "training.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_saved_state(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_the_error_of_a_damaged_checkpoint_names_the_file(trained, tmp_path):
    detector, _ = trained
    save_checkpoint(tmp_path / "c", detector, SavedState(step=1))
    file = tmp_path / "c" / "training.pt"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"c/training\.pt cannot be read"):
        load_saved_state(tmp_path / "c")


def test_a_checkpoint_of_another_model_is_refused(trained, tmp_path):
    detector, _ = trained
    save_checkpoint(tmp_path / "c", detector, SavedState(step=1))
    with pytest.raises(CheckpointError, match="another model"):
        load_checkpoint_weights(tmp_path / "c", tiny_detector(num_classes=5))


def test_random_numbers_continue_after_restoring():
    states = gather_random_states(CPU)
    first = torch.rand(3)
    torch.manual_seed(99)
    restore_random_state(states, 0, CPU)
    assert torch.equal(torch.rand(3), first)


def test_a_worker_without_a_saved_random_state_keeps_its_own():
    states = gather_random_states(CPU)
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    restore_random_state(states, 1, CPU)
    assert torch.equal(torch.rand(3), expected)
