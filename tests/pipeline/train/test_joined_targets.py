"""The loop takes the same steps with the objects of each image and with those of the batch."""

from dataclasses import dataclass

import pytest
import torch

from model.structures import BatchTargets, ImageBatch, Targets, join_targets
from pipeline.config import OptimizerConfig
from pipeline.train.loop import LoopHooks, LoopPlan, TrainingLoop
from pipeline.train.non_finite import NonFiniteLossError
from pipeline.train.optimizer import build_optimizer
from pipeline.train.precision import Precision
from tests.golden.cases import build_case, golden_batch, golden_targets

CPU = torch.device("cpu")


@dataclass(frozen=True)
class MicroBatch:
    images: ImageBatch
    targets: BatchTargets | tuple[Targets, ...]


def train(case, targets, lr=0.01):
    """Take two steps on the golden batch; return their losses."""
    detector, reports = build_case(case), []
    loop = TrainingLoop(
        model=detector,
        optimizer=build_optimizer(detector, OptimizerConfig()),
        lr_schedule=lambda step: lr,
        precision=Precision("fp32", CPU),
        device=CPU,
        plan=LoopPlan(0, 2, images_per_step=4, log_every=1),
        hooks=LoopHooks(log=reports.append),
    )
    loop.run(iter([MicroBatch(golden_batch(), targets)] * 2))
    return [report.losses for report in reports]


@pytest.mark.parametrize("case", ["mask_keypoint_c5", "retinanet"])
def test_joined_targets_give_the_same_losses(case):
    targets = tuple(golden_targets())
    joined = join_targets(targets, CPU, with_masks=True, num_keypoints=3)
    assert train(case, joined) == train(case, targets)


def test_a_loss_that_is_not_finite_names_the_images_of_joined_targets():
    joined = join_targets(tuple(golden_targets()), CPU, with_masks=True)
    with pytest.raises(NonFiniteLossError) as caught:
        train("mask_fpn", joined, lr=1e30)
    assert caught.value.image_ids == (0, 1, 2, 3)
