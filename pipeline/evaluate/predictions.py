"""Predictions on annotated rows, as COCO results, and the validation of a detector in training."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.distributed as dist

from model import Detector
from pipeline.evaluate.coco_metrics import Metrics
from pipeline.evaluate.measure import measure_results
from pipeline.infer.inputs import InputImage
from pipeline.infer.prediction_rows import coco_results, row_of
from pipeline.infer.predictor import predict_images
from pipeline.shards.keypoints import KeypointSet
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import ShardRow, read_row_group, rows_from_arrow

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowPredictions:
    """What a detector found in some rows.

    Args:
        results: COCO results: image_id, category_id, bbox (x y w h), score, and of a detector that
            finds them segmentation (RLE) and keypoints.
        images: rows predicted, with the unreadable ones.
        failures: ``file name: reason`` of each unreadable image; it counts as empty.
    """

    results: list[dict[str, Any]]
    images: int
    failures: list[str]


def predict_rows(detector: Detector, rows: Iterable[ShardRow], batch: int) -> RowPredictions:
    """Run the detector over rows and convert to COCO results with the data set's category ids.

    Args:
        detector: on any device, in any mode.
        rows: images to predict; one lookahead of them is in memory at a time.
        batch: images per forward pass.
    """
    images = (InputImage(row.image_id, row.file_name, row.image_bytes) for row in rows)
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    count = 0
    for prediction in predict_images(detector, images, batch):
        count += 1
        if prediction.error is not None:
            failures.append(f"{prediction.image.file_name}: {prediction.error}")
        results += coco_results(row_of(prediction, detector, least_score=0.0))
    return RowPredictions(results, count, failures)


def metric_kinds(
    of_data: KeypointSet | None,
    has_masks: bool,
    found_keypoints: Sequence[str] | None,
    knows_classes: bool = True,
) -> tuple[str, ...]:
    """What to measure of a detector.

    Args:
        of_data: the data set's keypoints; one without has none to compare with.
        has_masks: whether the detector finds masks.
        found_keypoints: names of the keypoints that it finds; None where it finds none.
        knows_classes: false of a proposal network, of which only its recall is measured.

    Raises:
        ValueError: the data set has other keypoints than the detector.
    """
    if not knows_classes:
        return ("proposals",)
    kinds = ("bbox", "segm") if has_masks else ("bbox",)
    if found_keypoints is None:
        return kinds
    if of_data is None:
        logger.warning("the data set has no keypoints: those of the detector are not measured")
        return kinds
    if of_data.names != tuple(found_keypoints):
        raise ValueError(
            f"the detector finds the keypoints {', '.join(found_keypoints)}; the data set has "
            f"{', '.join(of_data.names)}. Another data set, or another order?"
        )
    return (*kinds, "keypoints")


def validate(
    detector: Detector, shards_url: str, rank: int, world_size: int, batch: int
) -> Metrics | None:
    """Measure a detector in the middle of training; every rank predicts its share of the rows.

    With more than one rank each must call this, within its process group.

    Args:
        detector: the bare module, not its DDP wrapper; its mode is left as it was.
        shards_url: the validation shards.
        rank: of this process.
        world_size: processes that share the work.
        batch: images per forward pass.

    Returns:
        The metrics on rank 0, None elsewhere.
    """
    share = predict_rows(detector, rows_of_rank(shards_url, rank, world_size), batch)
    shares: list[RowPredictions | None] = [share]
    if world_size > 1:
        shares = [None] * world_size
        dist.gather_object(share, shares if rank == 0 else None)
    if rank != 0:
        return None
    whole = [one for one in shares if one is not None]
    heads = detector.config
    metrics = measure_results(
        shards_url,
        [result for one in whole for result in one.results],
        metric_kinds(
            read_manifest(shards_url).keypoints,
            has_masks=heads.mask is not None,
            found_keypoints=heads.keypoint.names if heads.keypoint else None,
            knows_classes=not heads.is_proposal_network,
        ),
    )
    return replace(
        metrics,
        images=sum(one.images for one in whole),
        failed_images=sum(len(one.failures) for one in whole),
    )


def rows_of_rank(shards_url: str, rank: int, world_size: int) -> Iterator[ShardRow]:
    """Every world_size-th row, from ``rank`` on: shares differ by one row at most."""
    number = 0
    for file in read_manifest(shards_url).files:
        for group, rows in enumerate(file.row_groups):
            mine = [n for n in range(rows) if (number + n) % world_size == rank]
            number += rows
            if mine:
                yield from rows_from_arrow(read_row_group(shards_url, file.name, group).take(mine))
