"""A compiled backbone learns the same, under the same names; backends that generate no code."""

import copy

import pytest
import torch

from model.config.settings import ConfigError, check_settings
from model.preprocess import pad_batch
from model.structures import ImageSize
from pipeline.config import TrainConfig
from pipeline.train import training_state
from pipeline.train.compilation import compile_features, uncompiled
from tests.pipeline.train.tiny_training import (
    assert_same_tensors,
    config_of,
    new_state,
    resume,
    save,
    train_until,
)

COMPILED = config_of(compile=True, ema_decay=0.9)
PLAIN = config_of(ema_decay=0.9)


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that were compiled so far, by a backend that runs them as they are."""
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(
        training_state, "compile_features", lambda detector: compile_features(detector, backend)
    )
    return compiled


def pixels(height, width):
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (height, width, 3), generator=rng, dtype=torch.uint8)
    return pad_batch([image], [ImageSize(height, width)], [1])


@pytest.mark.parametrize("norm", ["batch_norm", "frozen_bn"])
def test_a_compiled_backbone_has_the_same_losses_and_names(norm, graphs):
    configs = [config_of(norm=norm, compile=on) for on in (True, False)]
    compiled, plain = map(new_state, configs)
    for first, second in zip(
        train_until(compiled, configs[0], 2), train_until(plain, configs[1], 2), strict=True
    ):
        # A compiler sees other kernels, whose sums are rounded differently.
        assert first == pytest.approx(second, rel=1e-3)
    assert graphs
    assert compiled.detector.state_dict().keys() == plain.detector.state_dict().keys()


def test_all_image_sizes_share_one_or_two_compilations(graphs):
    """Two, because torch has other kernels for small maps than for large ones."""
    state = new_state(COMPILED)
    state.detector.train()
    for size in [(192, 256), (256, 192), (224, 224), (192, 288), (320, 160), (256, 256)]:
        state.detector.features(pixels(*size))
    assert 2 <= len(graphs) <= 4  # of the backbone and the pyramid


def test_the_average_and_validations_are_not_compiled(graphs):
    state = new_state(COMPILED)
    with torch.no_grad():
        state.inference_detector.features(pixels(64, 96))
        with uncompiled():
            state.detector.eval().features(pixels(64, 96))
    assert graphs == []
    assert state.average.detector is not state.detector


def test_a_run_resumes_with_and_without_compilation(graphs, tmp_path):
    state = new_state(COMPILED)
    train_until(state, COMPILED, 1)
    save(state, tmp_path / "c", 1)
    for config in (COMPILED, PLAIN):
        resumed = resume(config, tmp_path / "c")
        assert_same_tensors(resumed.detector.state_dict(), state.detector.state_dict())
        before = copy.deepcopy(resumed.detector.state_dict())
        train_until(resumed, config, 2)
        assert not torch.equal(resumed.detector.fpn.output[0].weight, before["fpn.output.0.weight"])


def test_activations_are_not_both_compiled_and_recomputed():
    with pytest.raises(ConfigError, match="compile and activation_checkpointing"):
        check_settings(TrainConfig, {"compile": True, "activation_checkpointing": True})
