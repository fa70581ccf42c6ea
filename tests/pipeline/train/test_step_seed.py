"""The random numbers of a network: other ones on each worker, the same after an interruption."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.weights.storage import CONFIG_FILE, WEIGHTS_FILE
from model.weights.storage.checksums import write_checksums
from pipeline.train.checkpoint import TRAINING_FILE, load_saved_state
from pipeline.train.driver import run_training
from pipeline.train.step_seed import seed_step
from tests.pipeline.train.driver_runs import make_config
from tests.pipeline.train.dropout_net import BACKBONE
from tests.pipeline.train.tiny_training import (
    assert_same_tensors,
    config_of,
    new_state,
    resume,
    save,
    train_until,
)
from tests.two_ranks import run_two_ranks

SEED = 5


def with_dropout(config, **backbone):
    """Return a config whose backbone has dropout."""
    settings = type(config.model.backbone).model_validate({**BACKBONE, **backbone})
    model = config.model.model_copy(update={"backbone": settings})
    return config.model_copy(update={"model": model, "seed": SEED})


CONFIG = with_dropout(config_of())


def record_masks(state):
    """Return a list to which each forward pass adds what its dropout keeps, (B, C, H, W) bool."""
    masks = []
    dropout = state.detector.get_submodule("backbone.net.dropout")
    dropout.register_forward_hook(
        # Where ReLU gave zero, both are zero.
        lambda module, inputs, output: masks.append((output != 0) | (inputs[0] == 0))
    )
    return masks


def one_of_two_workers(rank, folder):
    state = new_state(CONFIG)
    start = {name: tensor.clone() for name, tensor in state.detector.state_dict().items()}
    masks = record_masks(state)
    train_until(state, CONFIG, 2, seed=SEED, rank=rank)
    torch.save((start, masks, state.detector.state_dict()), folder / f"{rank}.pt")


def test_two_workers_begin_with_the_same_weights_and_draw_different_masks(tmp_path):
    run_two_ranks(one_of_two_workers, tmp_path)
    (start, masks, end), (other_start, other_masks, other_end) = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)
    )
    assert_same_tensors(start, other_start)
    assert len(masks) == len(other_masks) == 2
    for mask, other_mask in zip(masks, other_masks, strict=True):
        assert not torch.equal(mask, other_mask)
    assert not torch.equal(masks[0], masks[1])
    # They exchange gradients, so they stay one model.
    assert_same_tensors(end, other_end)


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_training_with_dropout_that_was_interrupted_equals_an_uninterrupted_one(
    tmp_path, killed_after
):
    whole = new_state(CONFIG)
    losses = train_until(whole, CONFIG, 4, seed=SEED)
    first = new_state(CONFIG)
    before = train_until(first, CONFIG, killed_after, seed=SEED)
    save(first, tmp_path / "checkpoint", killed_after)
    # As a validation might, before or after it saves.
    torch.rand(7)
    resumed = resume(CONFIG, tmp_path / "checkpoint")
    torch.rand(3)
    assert before + train_until(resumed, CONFIG, 4, seed=SEED) == losses
    assert_same_tensors(resumed.detector.state_dict(), whole.detector.state_dict())


def test_dropout_is_what_these_tests_see():
    """Another seed trains another model; without dropout it changes nothing."""
    ends = []
    for config, seed in ((CONFIG, 1), (CONFIG, 2), (config_of(), 1), (config_of(), 2)):
        state = new_state(config)
        ends.append(train_until(state, config, 2, seed=seed))
    assert ends[0] != ends[1]
    assert ends[2] == ends[3]


def test_a_seed_depends_on_run_step_and_worker():
    drawn = set()
    for seed in (0, 1):
        for step in (0, 1, 90_000):
            for rank in (0, 1, 63):
                seed_step(seed, step, rank)
                drawn.add(tuple(torch.rand(4).tolist()))
    assert len(drawn) == 18
    seed_step(1, 90_000, 63)
    assert tuple(torch.rand(4).tolist()) in drawn


def forget_random_states(folder):
    """Remove the generators' states from a checkpoint."""
    state = replace(load_saved_state(folder), random_states=[])
    torch.save(vars(state), folder / TRAINING_FILE)
    write_checksums(folder, (WEIGHTS_FILE, CONFIG_FILE, TRAINING_FILE))


@pytest.mark.ray
def test_workers_that_resume_draw_the_numbers_of_their_steps(shards, tmp_path):
    settings = {"workers": 2, "steps": 4}
    whole = run_training(with_dropout(make_config(tmp_path / "whole", shards, **settings)))
    step_2 = "train/step_00000002"
    shutil.copytree(tmp_path / "whole" / step_2, tmp_path / "resumed" / step_2)
    forget_random_states(tmp_path / "resumed" / step_2)
    resumed = run_training(with_dropout(make_config(tmp_path / "resumed", shards, **settings)))
    assert_same_tensors(
        load_file(Path(resumed.checkpoint_url) / WEIGHTS_FILE),
        load_file(Path(whole.checkpoint_url) / WEIGHTS_FILE),
    )
