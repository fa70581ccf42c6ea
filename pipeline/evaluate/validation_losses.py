"""The training losses of a detector on the validation shards, without augmentation.

Shapes: T loss terms, B images of a batch.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist

from model import Category, Detector
from model.boxes.convention import BoxConvention
from model.images.decode import DecodeError
from model.inference.precision import autocast
from model.preprocess import canvas_size
from model.structures import ImageSize
from pipeline.config import RunConfig
from pipeline.evaluate.validation import rows_of_rank
from pipeline.shards.class_match import match_classes
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import ShardRow
from pipeline.stream.augmentation.apply import TrainingSample
from pipeline.stream.augmentation.draw import DRAWS, AugmentationRanges, draw_augmentations
from pipeline.stream.collate import StreamBatch, collate
from pipeline.stream.random_numbers import Purpose, random_bits
from pipeline.stream.samples import sample_from_row

logger = logging.getLogger(__name__)


@torch.no_grad()
def validation_losses(
    detector: Detector, config: RunConfig, shards_url: str, rank: int, world_size: int
) -> dict[str, float]:
    """Measure the losses on the validation shards.

    Images have their test size and are neither flipped nor cropped; which anchors and ROIs are
    sampled depends only on the image.

    With more than one rank, every rank must call this within its process group.

    Args:
        detector: the bare module in evaluation mode, so that norms use their running statistics.
        config: the job's settings.
        shards_url: the validation shards; their classes are matched by name, and objects of
            classes that the detector lacks are left out.
        rank: rank of this process.
        world_size: number of processes that share the work.

    Returns:
        ``loss`` and its terms (``loss/mask``, ...), of all ranks together; empty if no image can
        be read.
    """
    rows = rows_of_rank(shards_url, rank, world_size)
    labels = _labels(detector.categories, read_manifest(shards_url).categories)
    settings = config.evaluate
    names: tuple[str, ...] = ()
    sums = torch.zeros(0, 2)  # (T, 2): totals and counts
    for batch in _batches(rows, labels, config, settings.batch):
        images = batch.images.to(detector.device)
        with autocast(settings.precision, detector.device):
            terms = detector(images, batch.targets.to(detector.device))
        names = tuple(sorted(terms))
        pairs = [(terms[name].total.float(), terms[name].count.float()) for name in names]
        values = torch.stack([torch.stack(pair) for pair in pairs]).cpu()
        sums = values if not len(sums) else sums + values
    gathered: list[tuple[tuple[str, ...], torch.Tensor]] = [(names, sums)] * world_size
    if world_size > 1:
        dist.all_gather_object(gathered, (names, sums))
    measured = [(names, each) for names, each in gathered if names]
    if not measured:
        return {}
    names = measured[0][0]
    totals, counts = torch.stack([each for _, each in measured]).sum(0).unbind(1)
    losses = (totals / counts.clamp(min=1.0)).tolist()
    return {"loss": sum(losses)} | {
        f"loss/{name}": loss for name, loss in zip(names, losses, strict=True)
    }


def _labels(detector: Sequence[Category], dataset: Sequence[Category]) -> np.ndarray:
    """Return the detector's label of each label of the dataset; 0 for classes that it lacks."""
    ids = match_classes(detector, dataset).ids
    label_of = {ids[each.id]: n for n, each in enumerate(detector, start=1) if each.id in ids}
    return np.array([0, *(label_of.get(each.id, 0) for each in dataset)], dtype=np.int64)


def _batches(
    rows: Iterator[ShardRow], labels: np.ndarray, config: RunConfig, size: int
) -> Iterator[StreamBatch]:
    """Yield batches of up to ``size`` images; unreadable ones are left out."""
    model = config.model
    points = len(model.keypoint.names) if model.keypoint else None
    samples: list[TrainingSample] = []
    for row in rows:
        known = labels[row.labels]
        row = replace(row, labels=known, iscrowd=row.iscrowd | (known == 0))
        try:
            samples.append(sample_from_row(row, model.mask is not None, points))
        except DecodeError as error:
            logger.warning("%s is left out of the validation loss: %s", row.file_name, error)
            continue
        if len(samples) == size:
            yield _batch(samples, config)
            samples = []
    if samples:
        yield _batch(samples, config)


def _batch(samples: Sequence[TrainingSample], config: RunConfig) -> StreamBatch:
    model = config.model
    ranges = AugmentationRanges(
        short_sides=(model.input.short_side,),
        long_side=model.input.long_side,
        flip_probability=0.0,
        rounding=model.conventions.resize_rounding,
        convention=BoxConvention(model.conventions.legacy_geometry),
    )
    sizes = [ImageSize(*sample.pixels.shape[:2]) for sample in samples]
    resized = draw_augmentations(sizes, np.zeros((len(samples), DRAWS)), ranges)
    ids = [sample.targets.image_id for sample in samples]
    # Below 2^62, as in training.
    seeds = random_bits(config.seed, 0, [i % 2**63 for i in ids], Purpose.SAMPLING, draws=1) >> 2
    canvas = canvas_size([each.output_size for each in resized], model.input.size_divisor)
    return collate(samples, resized, seeds[:, 0].tolist(), canvas, step=0)
