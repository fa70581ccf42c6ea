"""A stand-in for a perfect detector, which returns the annotations as detections."""

from types import SimpleNamespace

import torch

from model import Detections, ModelConfig
from model.config import KeypointHeadConfig
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import read_rows


def read_all_rows(shards_url):
    files = read_manifest(shards_url).files
    return [row for file in files for row in read_rows(shards_url, file.name)]


def perfect_detections(row, keypoint_shift=0.0):
    """Return the annotations of a row as detections.

    Keypoints are moved by ``keypoint_shift`` pixels and have the logit 5.
    """
    keypoints = None
    if row.keypoints is not None:
        keypoints = torch.from_numpy(row.keypoints).float()
        keypoints[..., :2] += keypoint_shift
        keypoints[..., 2] = 5.0
    return Detections(
        boxes=torch.from_numpy(row.boxes.copy()).float(),
        scores=torch.ones(len(row.labels)),
        labels=torch.from_numpy(row.labels.copy()),
        masks=None,
        image_size=row.size,
        keypoints=keypoints,
    )


def oracle(shards_url, keypoint_shift=0.0):
    """Return an oracle for the images of a dataset, which must come in the dataset's order."""
    manifest = read_manifest(shards_url)
    rows = iter(read_all_rows(shards_url))
    head = manifest.keypoints and KeypointHeadConfig(names=manifest.keypoints.names)
    return SimpleNamespace(
        predict=lambda images, batch_size: [
            perfect_detections(next(rows), keypoint_shift) for _ in images
        ],
        categories=manifest.categories,
        config=ModelConfig(keypoint=head),
    )
