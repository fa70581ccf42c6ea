"""Sources of training batches for ``benchmarks.input``: ours, torch's DataLoader, torchvision's.

Each is an iterator that yields the number of images of each batch it has made.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import functional

from model.preprocess import canvas_size
from pipeline.config import RunConfig
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import ShardRow, read_rows
from pipeline.stream.augmentation.apply import TrainingSample, augment
from pipeline.stream.augmentation.draw import DRAWS, AugmentationRanges, draw_augmentations
from pipeline.stream.augmentation.parameters import Augmentation
from pipeline.stream.collate import StreamBatch, collate
from pipeline.stream.samples import sample_from_row
from pipeline.stream.shard_plan import images_of_step, plan_shards
from pipeline.stream.training_stream import open_local_stream, open_stream

STEPS = 1_000_000
"""More than a benchmark takes."""


@dataclass(frozen=True)
class Setup:
    """What all sources share.

    Args:
        annotations: COCO instances file.
        images: folder of the image files.
        shards: URL of the shards of both.
        config: batch size, sizes and number of decoding threads.
    """

    annotations: Path
    images: Path
    shards: str
    config: RunConfig

    @property
    def cores(self) -> int:
        """Threads or processes that decode."""
        return self.config.data.decode_threads

    def batches(self) -> Iterator[list[int]]:
        """Yield the images of each planned batch, numbered in the order of the shards."""
        plan = plan_shards(read_manifest(self.shards), self.config.train.global_batch, 0)
        for step in itertools.count():
            yield images_of_step(plan, step)[1].tolist()

    def rows(self) -> list[ShardRow]:
        """Return all rows, in the order of the shards."""
        files = read_manifest(self.shards).files
        return [row for file in files for row in read_rows(self.shards, file.name)]

    def prepare(self, row: ShardRow) -> TrainingSample:
        """Decode, resize and, in half of all cases, flip an image as the stream does."""
        sample = sample_from_row(row, with_masks=True)
        [augmentation] = self.augmentations([sample])
        return augment(sample, augmentation)

    def augmentations(self, samples: Sequence[TrainingSample]) -> list[Augmentation]:
        """Return augmentations that flip every second image of the dataset."""
        fractions = np.zeros((len(samples), DRAWS))
        fractions[:, 1] = [sample.targets.image_id % 2 * 0.99 for sample in samples]
        input_size = self.config.model.input
        ranges = AugmentationRanges(
            (input_size.short_side,), input_size.long_side, self.config.data.flip_probability
        )
        return draw_augmentations([each.original_size for each in samples], fractions, ranges)

    def collate(self, samples: Sequence[TrainingSample]) -> StreamBatch:
        """Augment samples and join them to a batch, as the stream does."""
        augmentations = self.augmentations(samples)
        canvas = canvas_size([augmentation.size for augmentation in augmentations])
        return collate(samples, augmentations, range(len(samples)), canvas, step=0)


def local_stream(setup: Setup) -> Iterator[int]:
    """Our stream, read by this process."""
    with open_local_stream(setup.config, setup.shards, 0, 1, 0, STEPS) as stream:
        for batch in stream:
            yield len(batch.images)


def ray_stream(setup: Setup) -> Iterator[int]:
    """Our stream, read by Ray Data, as in a training."""
    with open_stream(setup.config, setup.shards, 0, 1, 0, STEPS) as stream:
        for batch in stream:
            yield len(batch.images)


def decode_in_threads(setup: Setup) -> Iterator[int]:
    """Decode, resize and flip images in memory in threads: no reading, no batches."""
    return _in_threads(setup, setup.prepare)


def jpeg_in_threads(setup: Setup) -> Iterator[int]:
    """Decode the JPEG files of images in memory in threads, and nothing else."""
    return _in_threads(setup, ShardRow.decode)


def _in_threads(setup: Setup, work: Callable[[ShardRow], Any]) -> Iterator[int]:
    """Yield the size of each planned batch once ``work`` has been done for its images."""
    rows, pending = setup.rows(), deque[list[Future[Any]]]()
    with ThreadPoolExecutor(setup.cores) as pool:
        for batch in setup.batches():
            pending.append([pool.submit(work, rows[image]) for image in batch])
            if len(pending) > setup.config.data.lookahead_batches:
                yield sum(future.result() is not None for future in pending.popleft())


class _Rows(Dataset[TrainingSample]):
    """The samples of a setup, for a DataLoader."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.rows = setup, setup.rows()

    def __getitem__(self, index: int) -> TrainingSample:
        return sample_from_row(self.rows[index], with_masks=True)


def data_loader(setup: Setup) -> Iterator[int]:
    """Our functions in the worker processes of torch's DataLoader, with images in memory."""
    loader = DataLoader(
        _Rows(setup),
        batch_sampler=setup.batches(),
        num_workers=setup.cores,
        collate_fn=setup.collate,
    )
    for batch in loader:
        yield len(batch.images)


class _CocoFolder(Dataset[tuple[torch.Tensor, dict[str, torch.Tensor]]]):
    """What torchvision's reference recipe reads: float pixels, boxes and full-size bitmaps."""

    def __init__(self, setup: Setup) -> None:
        self.coco, self.folder = COCO(setup.annotations), setup.images
        names = [row.file_name for row in setup.rows()]
        by_name = {image["file_name"]: image for image in self.coco.dataset["images"]}
        self.images = [by_name[name] for name in names]  # in the order of the planned batches

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        record = self.images[index]
        image = Image.open(self.folder / record["file_name"]).convert("RGB")
        objects = self.coco.loadAnns(self.coco.getAnnIds(record["id"], iscrowd=False))
        boxes = torch.tensor([each["bbox"] for each in objects]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        shape = (len(objects), record["height"], record["width"])
        bitmaps = torch.zeros(shape, dtype=torch.uint8)
        for bitmap, each in zip(bitmaps, objects, strict=True):
            bitmap.copy_(torch.from_numpy(self.coco.annToMask(each)))
        labels = torch.tensor([each["category_id"] for each in objects])
        pixels = functional.pil_to_tensor(image)
        if index % 2:
            pixels, bitmaps = pixels.flip(-1), bitmaps.flip(-1)
            boxes[:, [0, 2]] = record["width"] - boxes[:, [2, 0]]
        pixels = functional.convert_image_dtype(pixels)
        return pixels, {"boxes": boxes, "labels": labels, "masks": bitmaps}


def torchvision_loader(setup: Setup) -> Iterator[int]:
    """Torchvision's reference recipe up to the model: its resizing may run on a GPU."""
    for images, _ in _reference_loader(setup):
        yield len(images)


def torchvision_batches(setup: Setup) -> Iterator[int]:
    """Torchvision's reference recipe up to the backbone: its model resizes and pads, on the CPU."""
    size = setup.config.model.input
    transform = GeneralizedRCNNTransform(
        size.short_side, size.long_side, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    for images, targets in _reference_loader(setup):
        batch, _ = transform(list(images), list(targets))
        yield len(batch.tensors)


def _reference_loader(setup: Setup) -> DataLoader[Any]:
    return DataLoader(
        _CocoFolder(setup),
        batch_sampler=setup.batches(),
        num_workers=setup.cores,
        collate_fn=_transpose,
    )


def _transpose(samples: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(zip(*samples, strict=True))
