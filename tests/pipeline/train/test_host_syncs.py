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
from tests.golden.cases import CASES as GOLDEN_CASES
from tests.golden.cases import build_case, golden_batch, golden_targets
from tests.ops_cuda.forbid_sync import ForbidSync

CPU = torch.device("cpu")
# Views only matter in inference.
CASES = [case for case in GOLDEN_CASES if not case.startswith("views")]


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


# Precision does not decide which operators read values: each kind of detector takes part once, and
# those of both precisions differ in their convolutions, norms and meta-architecture.
@pytest.mark.parametrize(
    ("case", "precision"),
    [
        *((case, "fp32") for case in CASES),
        *((case, "bf16") for case in ("mask_fpn", "keypoint", "mask_c4", "mask_frozen_bn")),
        *((case, "bf16") for case in ("mask_legacy", "mask_torchvision", "retinanet")),
    ],
)
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


def test_batch_norm_in_a_head_makes_the_host_wait_for_the_number_of_rois(monkeypatch):
    """Padding would count in its statistics; a head with group norm needs no such wait."""
    monkeypatch.setattr(roi_heads, "_syncs_are_free", lambda device: False)
    detector = build_case("mask_fpn").train()
    detector.roi_heads.has_batch_norm = True
    batch = MicroBatch()
    with ForbidSync(), pytest.raises(AssertionError, match="nonzero syncs"):
        detector(batch.images, batch.targets)


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
