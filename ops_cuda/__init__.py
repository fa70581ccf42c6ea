"""Compiled operators of the detector, for CPU and CUDA.

A file holds one operator, or a few that belong together: the public wrapper, which checks the
arguments; the registration of the compiled kernels with torch; and last the reference
implementation in pure torch, named ``<operator>_reference``. A reference defines what its operator
computes, in as few torch operations as possible, and expects valid arguments. Tests compare the
kernels with it, and it runs where the operator has no compiled kernel. If the file would exceed 250
lines, the reference has its own file, ``<file>_reference.py``.

docs/ADDING_AN_OPERATOR.md lists the files of an operator.
"""

from ops_cuda.add_bias_relu import add_bias_relu_
from ops_cuda.conv3x3 import conv3x3_relu, pack_conv3x3
from ops_cuda.decode_proposals import decode_proposals
from ops_cuda.deform_conv import deform_conv2d
from ops_cuda.grouped_nms import grouped_nms
from ops_cuda.library import backend
from ops_cuda.match_boxes import IGNORED, NEGATIVE, POSITIVE, match_boxes
from ops_cuda.nms import batched_nms, batched_nms_mask, nms
from ops_cuda.paste_masks import paste_masks
from ops_cuda.polygon_masks import rasterize_polygons
from ops_cuda.preprocess import preprocess, resize_image
from ops_cuda.rle import compress_rle, encode_roi_masks_rle
from ops_cuda.roi_align import multiscale_roi_align
from ops_cuda.run_length_masks import rasterize_rle
from ops_cuda.select_proposals import select_proposals
from ops_cuda.stable_topk import stable_topk

__all__ = [
    "IGNORED",
    "NEGATIVE",
    "POSITIVE",
    "add_bias_relu_",
    "backend",
    "batched_nms",
    "batched_nms_mask",
    "compress_rle",
    "conv3x3_relu",
    "decode_proposals",
    "deform_conv2d",
    "encode_roi_masks_rle",
    "grouped_nms",
    "match_boxes",
    "multiscale_roi_align",
    "nms",
    "pack_conv3x3",
    "paste_masks",
    "preprocess",
    "rasterize_polygons",
    "rasterize_rle",
    "resize_image",
    "select_proposals",
    "stable_topk",
]
