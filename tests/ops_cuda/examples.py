"""Valid arguments of every compiled operator, for tests that concern them all."""

import torch

import ops_cuda
from tests.ops_cuda.scenes import (
    SCALES,
    pyramid,
    random_boxes,
    random_labels,
    random_outlines,
    random_rois,
    random_runs,
    tied_scores,
)


def examples():
    """Per operator: arguments of its raw form, torch.ops.ops_cuda.<name>."""
    boxes, scores = random_boxes(50), tied_scores(50)
    maps = pyramid(channels=3, side=64)
    trained = [each.clone().requires_grad_() for each in maps]
    shape = (SCALES, 4, 2, True, 24.0, 3)
    return {
        "nms": (boxes, scores, 0.5, -1),
        "batched_nms": (boxes, scores, random_labels(50), 0.5, 20),
        "multiscale_roi_align": (trained, random_rois(5, side=64), *shape),
        "multiscale_roi_align_backward": (
            torch.rand(5, 3, 4, 4),
            maps,
            random_rois(5, side=64),
            *shape,
        ),
        "rasterize_polygons": (*random_outlines(5), torch.arange(50) % 5, boxes, 14),
        "rasterize_rle": (*random_runs(5), torch.arange(50) % 5, boxes, 14),
        "paste_masks": (torch.rand(50, 14, 14), boxes, 60, 80, 0.5),
        "encode_roi_masks_rle": (torch.rand(50, 14, 14), boxes, 60, 80, 0.5),
        "compress_rle": (torch.tensor([9, 2, 9, 0, 20]), torch.tensor([0, 3, 5])),
        "pack_conv3x3": (torch.rand(40, 3, 3, 3),),
        "conv3x3_relu": (
            torch.rand(2, 3, 5, 9),
            ops_cuda.pack_conv3x3(torch.rand(40, 3, 3, 3)),
            torch.rand(40),
            40,
            True,
        ),
    }
