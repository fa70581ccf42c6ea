import pytest
import torch

from model import ModelConfig, build_detector, load_detector
from pipeline.config import OptimizerConfig
from pipeline.train.checkpoint import (
    CheckpointError,
    TrainingState,
    gather_random_states,
    load_training_state,
    load_weights_of,
    restore_random_state,
    save_checkpoint,
)
from pipeline.train.optimizer import build_optimizer, optimizer_state

CPU = torch.device("cpu")


def tiny(width=8, num_classes=2):
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
    """A detector and its optimiser after a step."""
    detector = tiny()
    optimizer = build_optimizer(detector, OptimizerConfig())
    sum(p.square().sum() for p in detector.parameters()).backward()
    optimizer.step()
    return detector, optimizer


def state_of(detector, optimizer):
    return TrainingState(
        step=7,
        optimizer=optimizer_state(optimizer, detector),
        scaler={"scale": 2.0},
        random_states=gather_random_states(CPU),
    )


def test_a_checkpoint_gives_back_everything(trained, tmp_path):
    detector, optimizer = trained
    save_checkpoint(tmp_path / "c", detector, state_of(detector, optimizer))

    other = tiny()
    load_weights_of(tmp_path / "c", other)
    for name, weight in detector.state_dict().items():
        assert torch.equal(other.state_dict()[name], weight), name
    state = load_training_state(tmp_path / "c")
    assert (state.step, state.scaler) == (7, {"scale": 2.0})
    expected = optimizer_state(optimizer, detector)
    assert state.optimizer.keys() == expected.keys()
    for name, memory in expected.items():
        assert torch.equal(state.optimizer[name]["momentum_buffer"], memory["momentum_buffer"])


def test_a_checkpoint_is_a_detector_for_everybody(trained, tmp_path):
    detector, optimizer = trained
    save_checkpoint(tmp_path / "c", detector, state_of(detector, optimizer))
    assert load_detector(tmp_path / "c").config == detector.config


def test_saving_again_replaces_and_leaves_nothing_else(trained, tmp_path):
    detector, _ = trained
    save_checkpoint(tmp_path / "c", detector, TrainingState(step=1))
    save_checkpoint(tmp_path / "c", detector, TrainingState(step=2))
    assert load_training_state(tmp_path / "c").step == 2
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_failed_save_leaves_the_old_checkpoint_whole(trained, tmp_path):
    detector, _ = trained
    save_checkpoint(tmp_path / "c", detector, TrainingState(step=1))
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path / "c", detector, TrainingState(step=2, scaler={"f": lambda: 0}))
    assert load_training_state(tmp_path / "c").step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return (tmp_path.joinpath("harm").write_text, ("done",))

    torch.save({"step": Harm()}, tmp_path / "training.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_training_state(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_a_damaged_checkpoint_is_named(trained, tmp_path):
    detector, _ = trained
    save_checkpoint(tmp_path / "c", detector, TrainingState(step=1))
    file = tmp_path / "c" / "training.pt"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"c/training\.pt cannot be read"):
        load_training_state(tmp_path / "c")


def test_another_model_is_refused_with_what_to_do(trained, tmp_path):
    detector, _ = trained
    save_checkpoint(tmp_path / "c", detector, TrainingState(step=1))
    with pytest.raises(CheckpointError, match="another model"):
        load_weights_of(tmp_path / "c", tiny(num_classes=5))


def test_random_states_continue_where_they_were():
    states = gather_random_states(CPU)
    first = torch.rand(3)
    torch.manual_seed(99)
    restore_random_state(states, 0, CPU)
    assert torch.equal(torch.rand(3), first)


def test_a_worker_that_did_not_exist_keeps_its_own_random_state():
    states = gather_random_states(CPU)
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    restore_random_state(states, 1, CPU)
    assert torch.equal(torch.rand(3), expected)
