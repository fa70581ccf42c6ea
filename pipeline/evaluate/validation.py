"""Validation during training: each rank predicts its share of rows, rank 0 measures them all."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.distributed as dist

from model import Category, Detector, Predictor
from model.config.settings import Precision
from pipeline.evaluate.dataset_metrics import dataset_metrics, metric_kinds
from pipeline.evaluate.metrics import COCO_MAX_DETECTIONS, Metrics
from pipeline.infer.detection_rows import coco_results, detection_row
from pipeline.infer.detection_stream import predict_images
from pipeline.infer.input_image import InputImage
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import ShardRow, rows_from_arrow
from pipeline.shards.shard_file import read_row_group


@dataclass(frozen=True)
class RowPredictions:
    """A detector's predictions on some rows.

    Args:
        results: COCO results: image_id, category_id, bbox (x y w h), score; also segmentation (RLE)
            and keypoints if the detector predicts them.
        images: number of rows, unreadable ones included.
        failures: ``file name: reason`` of each unreadable image, which has no results.
    """

    results: list[dict[str, Any]]
    images: int
    failures: list[str]


@dataclass(frozen=True)
class ValidationPredictions:
    """The predictions of all ranks on the validation shards, and what to measure of them.

    Args:
        shards_url: the validation shards.
        results: COCO results of all images.
        kinds: the kinds of metrics; see `dataset_metrics`.
        classes: the detector's classes; empty for a proposal network.
        max_detections: detections of a class in an image that count.
        images: number of images, unreadable ones included.
        failed_images: number of unreadable images.
    """

    shards_url: str
    results: list[dict[str, Any]]
    kinds: Sequence[str]
    classes: Sequence[Category]
    max_detections: int
    images: int
    failed_images: int


def predict_shards(
    detector: Detector,
    shards_url: str,
    rank: int,
    world_size: int,
    batch: int,
    precision: Precision = "fp32",
    max_detections: int = COCO_MAX_DETECTIONS,
) -> ValidationPredictions | None:
    """Run a detector in training over the validation shards.

    With more than one rank, every rank must call this within its process group.

    Args:
        detector: the bare module, not its DDP wrapper; its training mode is unchanged afterwards.
        shards_url: the validation shards.
        rank: rank of this process.
        world_size: number of processes that share the work.
        batch: images per forward pass.
        precision: autocast dtype of the forward passes.
        max_detections: detections of a class in an image that count; see `coco_metrics`.

    Returns:
        The predictions of all ranks on rank 0, None elsewhere.
    """
    rows = rows_of_rank(shards_url, rank, world_size)
    share = predict_rows(Predictor(detector, precision), rows, batch)
    gathered: list[RowPredictions | None] = [share]
    if world_size > 1:
        gathered = [None] * world_size
        dist.gather_object(share, gathered if rank == 0 else None)
    if rank != 0:
        return None
    shares = [each for each in gathered if each is not None]
    config = detector.config
    return ValidationPredictions(
        shards_url,
        [result for each in shares for result in each.results],
        metric_kinds(
            read_manifest(shards_url).keypoints,
            has_masks=config.mask is not None,
            predicted_keypoints=config.keypoint.names if config.keypoint else None,
            has_classes=not config.is_proposal_network,
        ),
        () if config.is_proposal_network else tuple(detector.categories),
        max_detections,
        images=sum(each.images for each in shares),
        failed_images=sum(len(each.failures) for each in shares),
    )


def measure(predictions: ValidationPredictions) -> Metrics:
    """Compute the metrics of predictions on the validation shards."""
    metrics = dataset_metrics(
        predictions.shards_url,
        predictions.results,
        predictions.kinds,
        predictions.classes,
        predictions.max_detections,
    )
    return replace(metrics, images=predictions.images, failed_images=predictions.failed_images)


def predict_rows(predictor: Predictor, rows: Iterable[ShardRow], batch: int) -> RowPredictions:
    """Run a detector over rows and convert its detections to COCO results.

    Args:
        predictor: on any device.
        rows: images to predict; two windows of batches are in memory at a time.
        batch: images per forward pass.
    """
    images = map(InputImage.from_row, rows)
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    count = 0
    for prediction in predict_images(predictor, images, batch):
        count += 1
        if prediction.error is not None:
            failures.append(f"{prediction.image.file_name}: {prediction.error}")
        results += coco_results(detection_row(prediction, predictor, score_threshold=0.0))
    return RowPredictions(results, count, failures)


def rows_of_rank(shards_url: str, rank: int, world_size: int) -> Iterator[ShardRow]:
    """Yield one of ``world_size`` contiguous shares of the rows; they differ by at most one row.

    A contiguous share reads each of its row groups once, which no other rank reads but those at its
    ends, and whose images have similar shapes.
    """
    manifest = read_manifest(shards_url)
    begin, end = (manifest.rows * r // world_size for r in (rank, rank + 1))
    first = 0  # index of the row group's first row in the dataset
    for file in manifest.files:
        for group, rows in enumerate(file.row_groups):
            own = range(max(begin - first, 0), min(end - first, rows))
            first += rows
            if own:
                table = read_row_group(shards_url, file.name, group)
                yield from rows_from_arrow(table.slice(own.start, len(own)))
