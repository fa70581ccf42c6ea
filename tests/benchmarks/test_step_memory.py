"""The memory of a training step, traced on fake tensors.

A fake tensor has no values: a step that reads one, or calls an operator of ours without a fake
kernel, fails here.
"""

import pytest

from benchmarks.step_memory import ALIGNMENT, StepShape, trace_step
from model import ModelConfig, build_detector
from model.structures import ImageSize
from tests.golden.cases import CASES, TINY

SHAPE = StepShape(batch=2, canvas=ImageSize(64, 96), objects=3, positives=32)


def config_of(case):
    settings = TINY | CASES[case]
    settings["backbone"] = TINY["backbone"] | settings["backbone"]
    return ModelConfig.model_validate(settings)


@pytest.mark.parametrize("case", ["mask_torchvision", "mask_keypoint_c5", "retinanet"])
def test_every_kind_of_detector_takes_a_step_without_values(case):
    peak = trace_step(config_of(case), SHAPE, "bf16")
    assert peak["forward"] > 0


def test_weights_are_counted_once_and_maps_by_type():
    config = config_of("mask_frozen_bn")
    detector = build_detector(config)
    tensors = [*detector.parameters(), *detector.buffers()]
    trainable = [p for p in detector.parameters() if p.requires_grad]
    one, half = (trace_step(config, SHAPE, precision) for precision in ("fp32", "bf16"))
    assert one["weights"] == half["weights"] == rounded(tensors)
    assert one["momentum"] == half["momentum"] == rounded(trainable)
    # Float32 maps of the losses are the same in both.
    assert 0.45 * one["forward"] < half["forward"] < 0.8 * one["forward"]
    pixels = SHAPE.batch * 3 * SHAPE.canvas.height * SHAPE.canvas.width
    assert one["images"] == half["images"] == pixels


def rounded(tensors):
    return sum(-(-each.nbytes // ALIGNMENT) * ALIGNMENT for each in tensors)
