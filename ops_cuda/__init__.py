"""Compiled operators of the detector, for CPU and CUDA, each with a pure-torch twin."""

from ops_cuda.conv import conv3x3_relu, pack_conv3x3
from ops_cuda.deform_conv import deform_conv2d
from ops_cuda.grouped_nms import grouped_nms
from ops_cuda.library import backend
from ops_cuda.match_boxes import IGNORED, NEGATIVE, POSITIVE, match_boxes
from ops_cuda.nms import batched_nms, nms, surviving_boxes
from ops_cuda.paste_masks import paste_masks
from ops_cuda.polygon_masks import rasterize_polygons
from ops_cuda.preprocess import preprocess, resize_image
from ops_cuda.proposals import decode_proposals, select_proposals, top_scores
from ops_cuda.rle import compress_rle, encode_roi_masks_rle
from ops_cuda.roi_align import multiscale_roi_align
from ops_cuda.run_length_masks import rasterize_rle

__all__ = [
    "IGNORED",
    "NEGATIVE",
    "POSITIVE",
    "backend",
    "batched_nms",
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
    "surviving_boxes",
    "top_scores",
]
