"""Training states of a tiny detector on drawn pixels, saved and resumed without a cluster."""

from dataclasses import dataclass

import torch

from model.preprocess import pad_batch
from model.structures import Category, ImageBatch, ImageSize, PolygonMasks, Targets
from pipeline.config import RunConfig
from pipeline.train.checkpoint import save_checkpoint
from pipeline.train.loop import LoopPlan, TrainingLoop
from pipeline.train.training_state import new_training_state, resume_training_state

CPU = torch.device("cpu")
CATEGORIES = (Category(1, "a"), Category(2, "b"))
SIZE = ImageSize(64, 96)


@dataclass(frozen=True)
class Batch:
    images: ImageBatch
    targets: tuple[Targets, ...]


def config_of(norm="batch_norm", frozen_stages=2, **train):
    return RunConfig.model_validate(
        {
            "model": {
                "num_classes": 2,
                "input": {"short_side": 64, "long_side": 96},
                "backbone": {
                    "depth": 18, "norm": norm, "frozen_stages": frozen_stages, "width": 8
                },
                "fpn": {"channels": 16},
                "rpn": {
                    "anchor_sizes": [8, 16, 32, 64, 128],
                    "pre_nms_train": 50,
                    "post_nms_train": 30,
                    "pre_nms_test": 50,
                    "post_nms_test": 20,
                    "samples_per_image": 32,
                },
                "box": {"hidden": 16, "samples_per_image": 16, "score_threshold": 0.0},
                "mask": {"channels": 8, "layers": 1},
            },
            "train": {"global_batch": 2, "optimizer": {"lr": 0.01, "clip_norm": 1.0}, **train},
        }
    )  # fmt: skip


def batch_of(step):
    """Return two images of noise with two objects each; the same for the same step."""
    rng = torch.Generator().manual_seed(step)
    pixels = [torch.randint(0, 256, (64, 96, 3), generator=rng, dtype=torch.uint8) for _ in "ab"]
    boxes = torch.tensor([[6.0, 8.0, 40.0, 44.0], [50.0, 20.0, 84.0, 60.0]])
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    masks = PolygonMasks(corners, 4 * torch.arange(3), torch.arange(3))
    targets = tuple(Targets(boxes, torch.tensor([1, 2]), masks, image_id=n) for n in range(2))
    return Batch(pad_batch(pixels, [SIZE, SIZE], [step, step + 1]), targets)


def new_state(config):
    torch.manual_seed(0)
    return new_training_state(config, CATEGORIES, CPU)


def train_until(state, config, stop, seed=None, rank=0):
    """Take the steps up to ``stop``; return the losses of each."""
    reports = []
    loop = TrainingLoop(
        state.distributed_model(),
        state.optimizer,
        lr_schedule=lambda step: config.train.optimizer.lr,
        precision=state.precision,
        device=CPU,
        plan=LoopPlan(state.start_step, stop, 2, clip_norm=1.0, log_every=1, seed=seed, rank=rank),
    )
    loop.hooks = type(loop.hooks)(log=reports.append)
    loop.run(map(batch_of, range(state.start_step, stop)))
    return [report.losses for report in reports]


def save(state, folder, step):
    save_checkpoint(folder, state.inference_detector, state.state_to_save(step))


def resume(config, folder):
    """Restore a training as another process does."""
    torch.manual_seed(99)
    return resume_training_state(config, CATEGORIES, CPU, folder, 0, str(folder))


def assert_same_tensors(actual, expected):
    """Compare two state dicts bit for bit."""
    assert actual.keys() == expected.keys()
    for name, tensor in actual.items():
        assert torch.equal(tensor, expected[name]), name
