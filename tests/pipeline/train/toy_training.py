"""The training loop on a toy detector, for the tests of the loop."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from model.structures import ImageBatch, ImageSize, LossTerm, Targets
from pipeline.config import OptimizerConfig
from pipeline.stream.shard_plan import split_evenly
from pipeline.train.loop import LoopHooks, LoopPlan, TrainingLoop
from pipeline.train.optimizer import build_optimizer, load_optimizer_state
from pipeline.train.precision import Precision

GLOBAL_BATCH = 8
STEPS = 4
CPU = torch.device("cpu")


@dataclass(frozen=True)
class ToyBatch:
    images: ImageBatch
    targets: tuple[Targets, ...]


class ToyDetector(nn.Module):
    """One loss counted per image and one per object; ``nan_image`` makes its loss NaN."""

    def __init__(self, nan_image: int = -1):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 4)
        self.nan_image = nan_image

    def forward(self, images, targets):
        features = self.body(images.pixels.float() / 255).relu().mean((2, 3))
        boxes = self.head(features)
        per_object = torch.cat([box - t.boxes for box, t in zip(boxes, targets, strict=True)])
        image_loss = features.square().sum()
        if any(t.image_id == self.nan_image for t in targets):
            image_loss = image_loss * float("nan")
        return {
            "image": LossTerm(image_loss, torch.tensor(float(len(images)))),
            "object": LossTerm(per_object.square().sum(), torch.tensor(float(len(per_object)))),
        }


def sample(image_id, objects):
    rng = torch.Generator().manual_seed(image_id)
    pixels = torch.randint(0, 256, (3, 8, 8), generator=rng, dtype=torch.uint8)
    boxes = torch.rand(objects, 4, generator=rng)
    return pixels, Targets(boxes, torch.ones(objects, dtype=torch.int64), image_id=image_id)


def stream(
    start, rank=0, world=1, accumulate=1, objects_of=lambda image_id: image_id % 4, shares=None
):
    """Yield this rank's micro-batches; global batches do not depend on world or accumulate."""
    own = split_evenly(range(GLOBAL_BATCH), world)[rank] if shares is None else shares[rank]
    for step in range(start, STEPS):
        for micro in split_evenly(own, accumulate):
            share = len(micro)
            samples = [sample(i, objects_of(i)) for i in (step * GLOBAL_BATCH + n for n in micro)]
            size = (ImageSize(8, 8),) * share
            images = ImageBatch(torch.stack([pixels for pixels, _ in samples]), size, size)
            yield ToyBatch(images, tuple(target for _, target in samples))


def train(
    start=0, stop=STEPS, rank=0, world=1, accumulate=1, nan_image=-1, saved=None,
    pause=lambda step: None, precision="fp32", log_every=1, scaler=None, overflows_in=(),
    max_skipped_steps=0, skipped=lambda error: None, ends_after=lambda step: False,
    **stream_options,
):  # fmt: skip
    """Run the loop; return its reports, the trained model and its optimizer."""
    toy = ToyDetector(nan_image)
    optimizer = build_optimizer(toy, OptimizerConfig(lr=0.05))
    if saved is not None:
        toy.load_state_dict(saved["model"])
        load_optimizer_state(optimizer, toy, saved["optimizer"])
    model = DistributedDataParallel(toy, gradient_as_bucket_view=True) if world > 1 else toy
    reports = []
    steps = iter(range(start, stop))
    if overflows_in:
        toy.body.weight.register_hook(
            lambda gradient: gradient * float("inf" if next(steps) in overflows_in else 1)
        )
    amp = Precision(precision, CPU)
    amp.scaler = scaler or amp.scaler
    loop = TrainingLoop(
        model,
        optimizer,
        lr_schedule=lambda step: 0.05 / (1 + step),
        precision=amp,
        device=CPU,
        plan=LoopPlan(
            start,
            stop,
            GLOBAL_BATCH,
            accumulate,
            clip_norm=5.0,
            log_every=log_every,
            max_skipped_steps=max_skipped_steps,
        ),
        hooks=LoopHooks(
            log=reports.append,
            pauses_after=lambda step: step % 2 == 0,
            pause=pause,
            ends_after=ends_after,
            skipped=skipped,
        ),
    )
    loop.run(stream(start, rank, world, accumulate, **stream_options))
    return reports, toy, optimizer


def losses(reports):
    return [report.losses for report in reports]


def assert_same_losses(a, b, rel=1e-5):
    """Compare losses up to the order of float additions (1e-5)."""
    assert len(a) == len(b)
    for first, second in zip(a, b, strict=True):
        assert first == pytest.approx(second, rel=rel)


def assert_same_weights(model, expected):
    for (name, weight), other in zip(
        model.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        assert torch.equal(weight, other), name
