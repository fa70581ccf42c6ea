"""Keep the images and targets of a step that became NaN, so that they can be fed again.

Batches are a pure function of the step (``pipeline.stream``), so those of a step in the past, as a
GPU notices it, are drawn once more instead of being kept.
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from model.structures import (
    BatchTargets,
    ImageBatch,
    ImageSize,
    MixedMasks,
    PolygonMasks,
    RunLengthMasks,
)
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.stream.collate import StreamBatch
from pipeline.stream.training_stream import open_local_stream

MAX_BYTES = 256_000_000
"""Largest size of the tensors of a file: about 80 images of 800 x 1333 pixels."""


@dataclass(frozen=True)
class SavedBatch:
    """A micro-batch as the network got it.

    Args:
        images: uint8 pixels.
        targets: the objects of all images.
    """

    images: ImageBatch
    targets: BatchTargets


def save_step(
    config: RunConfig,
    shards: str,
    world_size: int,
    step: int,
    image_ids: Collection[int],
    url: str,
) -> int:
    """Draw the micro-batches of a step again that hold some images, and save them in one file.

    Args:
        config: the job's settings.
        shards: URL of the training shards.
        world_size: number of workers.
        step: steps taken before it.
        image_ids: the images.
        url: the file, of the format safetensors.

    Returns:
        The number of micro-batches in the file. Those beyond ``MAX_BYTES`` are left out; without
        any, no file is written.
    """
    tensors: dict[str, torch.Tensor] = {}
    facts: list[dict[str, object]] = []
    size = 0
    for batch in _draw(config, shards, world_size, step, set(image_ids)):
        size += batch.buffer.numel()
        if size > MAX_BYTES:
            break
        tensors |= {f"{len(facts)}.{name}": each for name, each in _tensors(batch).items()}
        images, targets = batch.images, batch.targets
        facts.append(
            {
                "sizes": images.sizes,
                "original_sizes": images.original_sizes,
                "sampling_seeds": images.sampling_seeds,
                "counts": targets.counts,
                "image_ids": targets.image_ids,
            }
        )
    if facts:
        metadata = {"step": str(step), "micro_batches": json.dumps(facts)}
        storage.write_bytes(url, save(tensors, metadata))
    return len(facts)


def load_batches(path: str | Path) -> list[SavedBatch]:
    """Return the micro-batches of a file that a training has saved."""
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["micro_batches"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return [_batch(number, each, tensors) for number, each in enumerate(facts)]


def _draw(
    config: RunConfig, shards: str, world_size: int, step: int, image_ids: set[int]
) -> Iterator[StreamBatch]:
    """Yield the micro-batches of all workers that hold an image, until each was seen."""
    missing = set(image_ids)
    for rank in range(world_size):
        if not missing:
            return
        with open_local_stream(config, shards, rank, world_size, step, step + 1) as stream:
            for batch in stream:
                if image_ids & {*batch.targets.image_ids}:
                    missing -= {*batch.targets.image_ids}
                    yield batch


def _tensors(batch: StreamBatch) -> dict[str, torch.Tensor]:
    targets = batch.targets
    tensors = {
        # As channels-last memory: safetensors stores the order of the dimensions only.
        "pixels_hwc": batch.images.pixels.permute(0, 2, 3, 1),
        "boxes": targets.boxes,
        "labels": targets.labels,
        "offsets": targets.offsets,
    }
    if targets.keypoints is not None:
        tensors["keypoints"] = targets.keypoints
    if targets.masks is not None:
        tensors |= {f"polygons.{k}": v for k, v in vars(targets.masks.polygons).items()}
        tensors |= {f"runs.{k}": v for k, v in vars(targets.masks.runs).items()}
    # Copies, because safetensors refuses tensors that share the memory of a batch.
    return {
        name: each.clone(memory_format=torch.contiguous_format) for name, each in tensors.items()
    }


def _batch(number: int, facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> SavedBatch:
    prefix = f"{number}."
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    def part(name: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(f"{name}."): v for k, v in own.items() if k.startswith(f"{name}.")}

    masks = None
    if part("polygons"):
        masks = MixedMasks(PolygonMasks(**part("polygons")), RunLengthMasks(**part("runs")))
    images = ImageBatch(
        own["pixels_hwc"].permute(0, 3, 1, 2),
        tuple(ImageSize(*size) for size in facts["sizes"]),
        tuple(ImageSize(*size) for size in facts["original_sizes"]),
        tuple(facts["sampling_seeds"]),
    )
    targets = BatchTargets(
        own["boxes"],
        own["labels"],
        own["offsets"],
        tuple(facts["counts"]),
        masks,
        own.get("keypoints"),
        tuple(facts["image_ids"]),
    )
    return SavedBatch(images, targets)
