"""Positive ROIs of given objects, and random proposals."""

import torch

from model.heads.training_rois import TrainingRois
from model.structures import Proposals


def positive_rois(images, boxes, gt_indices, valid=None):
    """Return ROIs with the label 1.

    Args:
        images: R image indices.
        boxes: (R, 4), pixels.
        gt_indices: R rows of ``BatchTargets``.
        valid: R bool; all if None.
    """
    boxes = torch.as_tensor(boxes, dtype=torch.float32)
    return TrainingRois(
        torch.cat((torch.tensor(images, dtype=torch.float32)[:, None], boxes), 1),
        torch.ones(len(boxes), dtype=torch.int64),
        boxes,
        torch.tensor(gt_indices, dtype=torch.int64),
        valid=torch.ones(len(boxes), dtype=torch.bool) if valid is None else torch.tensor(valid),
        positive_slots=torch.arange(len(boxes)),
    )


def random_proposals(counts, rows):
    """Return boxes of 12 pixels, as many per image as ``counts`` says, padded to ``rows``."""
    boxes = torch.zeros(len(counts), rows, 4)
    for image, count in enumerate(counts):
        corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(image)) * 40
        boxes[image, :count] = torch.cat((corners, corners + 12), 1)
    return Proposals(boxes, torch.tensor(counts))
