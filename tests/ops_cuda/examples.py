"""Valid arguments of every compiled operator, for the tests that run over all operators."""

import torch

import ops_cuda
from tests.ops_cuda.scenes import (
    DEFORM_GEOMETRY,
    SCALES,
    deformed_map,
    pyramid,
    random_boxes,
    random_images,
    random_labels,
    random_outlines,
    random_rois,
    random_runs,
    scored_anchors,
    tied_scores,
)


def selected_anchors():
    """Return scores, indices, deltas, anchors and limits, as decode_proposals takes them."""
    logits, deltas, anchors, limits = scored_anchors(per_level=(40, 9))
    top = [level.topk(6) for level in logits]
    return [each.values for each in top], [each.indices for each in top], deltas, anchors, limits


def run_example(operator, arguments):
    """Call an operator with copies of its arguments, and return its result."""
    return with_result(operator)(*copy_tensors(arguments))


def with_result(operator):
    """Return the operator as a function; one in place returns its changed first argument."""

    def run(*arguments):
        result = operator(*arguments)
        return arguments[0] if result is None else result

    return run


def copy_tensors(value):
    """Copy all tensors of a nested list or tuple; return other values unchanged."""
    match value:
        case torch.Tensor():
            return value.detach().clone().requires_grad_(value.requires_grad)
        case list() | tuple():
            return type(value)(copy_tensors(each) for each in value)
        case _:
            return value


def examples():
    """Return arguments per operator, as torch.ops.ops_cuda.<name> takes them."""
    boxes, scores = random_boxes(50), tied_scores(50)
    maps = pyramid(channels=3, side=64)
    trained = [each.clone().requires_grad_() for each in maps]
    roi_options = (SCALES, 4, 2, True, 24.0, 3, 1.0)
    return {
        "nms": (boxes, scores, 0.5, -1),
        "batched_nms": (boxes, scores, random_labels(50), 0.5, 20),
        "batched_nms_mask": (boxes, scores, random_labels(50), 0.5),
        "grouped_nms": (boxes.view(5, 10, 4), scores.view(5, 10), 0.5, 7, False),
        "stable_topk": (scores.view(5, 10), 4),
        "decode_proposals": (*selected_anchors(), 1e-3, 4.0, 1.0),
        "match_boxes": (boxes[None], boxes[:9] + 3, torch.tensor([0, 4, 9]), 0.5, 0.3, True),
        "multiscale_roi_align": (trained, random_rois(5, side=64), *roi_options),
        "multiscale_roi_align_backward": (
            torch.rand(5, 3, 4, 4),
            maps,
            random_rois(5, side=64),
            *roi_options,
        ),
        "rasterize_polygons": (*random_outlines(5), torch.arange(50) % 5, boxes, 14),
        "rasterize_rle": (*random_runs(5), torch.arange(50) % 5, boxes, 14),
        "paste_masks": (torch.rand(50, 14, 14), boxes, 60, 80, 0.5, True),
        "encode_roi_masks_rle": (torch.rand(50, 14, 14), boxes, 60, 80, 0.5, True),
        "compress_rle": (torch.tensor([9, 2, 9, 0, 20]), torch.tensor([0, 3, 5])),
        "deform_columns": (*deformed_map(), DEFORM_GEOMETRY),
        "deform_columns_backward": (
            torch.rand(2, 5, 4, 9, 6),
            *deformed_map(),
            DEFORM_GEOMETRY,
        ),
        "resize_image": (random_images()[0], 20, 50),
        "preprocess": (
            random_images(),
            [40, 20, 9],
            [30, 64, 9],
            48,
            64,
            [120.0, 110.0, 100.0],
            [50.0, 60.0, 57.0],
            True,
            torch.float32,
            False,
        ),
        "add_bias_relu_": (
            torch.randn(2, 40, 5, 9),
            torch.randn(40),
            torch.randn(2, 40, 5, 9),
            True,
        ),
        "pack_conv3x3": (torch.rand(40, 3, 3, 3),),
        "conv3x3_relu": (
            torch.rand(2, 3, 5, 9),
            ops_cuda.pack_conv3x3(torch.rand(40, 3, 3, 3)),
            torch.rand(40),
            40,
            True,
            64,
        ),
    }
