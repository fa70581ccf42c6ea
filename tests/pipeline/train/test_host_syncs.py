"""A step of the training loop never makes the host wait for the GPU, unless it logs."""

from dataclasses import replace

import pytest
import torch

from model.heads import roi_heads
from model.structures import BitmapMasks
from model.structures.batch_masks import encode_bitmaps
from pipeline.config import OptimizerConfig
from pipeline.train.loop import LoopHooks, LoopPlan, TrainingLoop
from pipeline.train.optimizer import build_optimizer
from pipeline.train.precision import Precision
from tests.golden.cases import build_case, golden_batch, golden_targets
from tests.ops_cuda.forbid_sync import ForbidSync

CPU = torch.device("cpu")
CASES = ["mask_fpn", "keypoint", "mask_c4", "mask_frozen_bn", "mask_legacy", "retinanet"]


class MicroBatch:
    """Images and objects with polygons or run lengths, as the stream delivers them."""

    def __init__(self):
        self.images, self.targets = golden_batch(), tuple(map(without_bitmaps, golden_targets()))


def without_bitmaps(target):
    if isinstance(target.masks, BitmapMasks):
        return replace(target, masks=encode_bitmaps(target.masks))
    return target


def training_loop(case, device, precision):
    """Return a loop of many steps that reports the first, with two micro-batches per step."""
    detector = build_case(case).to(device)
    return TrainingLoop(
        model=detector,
        optimizer=build_optimizer(detector, OptimizerConfig(lr=0.001)),
        lr_schedule=lambda step: 0.001,
        precision=Precision(precision, device),
        device=device,
        plan=LoopPlan(0, 9, images_per_step=8, accumulate=2, clip_norm=5.0, log_every=100),
        hooks=LoopHooks(),
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_whole_step_reads_nothing_from_the_device(case, precision, monkeypatch):
    # The operators that sync on a GPU raise here; two modules take the way of a GPU.
    monkeypatch.setattr(roi_heads, "_syncs_are_free", lambda device: False)
    loop = training_loop(case, CPU, precision)
    monkeypatch.setattr(loop, "_syncs_are_free", False)
    before = [p.detach().clone() for p in loop._parameters]
    batches = iter([MicroBatch()] * 2)
    with ForbidSync():
        loop.train_step(0, batches)
    assert any(not p.equal(old) for p, old in zip(loop._parameters, before, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_whole_step_on_a_gpu_never_waits_for_it(case, precision):
    loop = training_loop(case, torch.device("cuda"), precision)
    batches = iter([MicroBatch()] * 4)
    loop.train_step(0, batches)  # the first pass loads kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop.train_step(1, batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
