"""A complete training with averaged weights: killed and resumed, and what it saves and measures."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.train.checkpoint import load_saved_state
from pipeline.train.driver import run_training
from tests.pipeline.train.driver_runs import make_config

pytestmark = pytest.mark.ray


@pytest.mark.soak
def test_a_training_resumed_from_averaged_weights_ends_with_the_same_average(shards, tmp_path):
    settings = {"workers": 1, "steps": 4, "ema_decay": 0.9}
    whole = run_training(make_config(tmp_path / "whole", shards, **settings))
    step_2 = "train/step_00000002"
    shutil.copytree(tmp_path / "whole" / step_2, tmp_path / "resumed" / step_2)
    resumed = run_training(make_config(tmp_path / "resumed", shards, **settings))
    folders = [Path(whole.checkpoint_url), Path(resumed.checkpoint_url)]
    average, resumed_average = (load_file(folder / "model.safetensors") for folder in folders)
    saved, resumed_saved = (load_saved_state(folder) for folder in folders)
    for name, tensor in average.items():
        assert torch.equal(tensor, resumed_average[name]), name
    assert saved.average_updates == resumed_saved.average_updates == 4
    for name, tensor in saved.trained_weights.items():
        assert torch.equal(tensor, resumed_saved.trained_weights[name]), name
        assert not torch.equal(tensor, average[name]), name
