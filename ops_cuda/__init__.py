"""Compiled operators of the detector, for CPU and CUDA, each with a pure-torch twin."""

from ops_cuda.conv import conv3x3_relu, pack_conv3x3
from ops_cuda.library import backend
from ops_cuda.nms import batched_nms, nms
from ops_cuda.paste_masks import paste_masks
from ops_cuda.polygon_masks import rasterize_polygons
from ops_cuda.rle import compress_rle, encode_roi_masks_rle
from ops_cuda.roi_align import multiscale_roi_align
from ops_cuda.run_length_masks import rasterize_rle

__all__ = [
    "backend",
    "batched_nms",
    "compress_rle",
    "conv3x3_relu",
    "encode_roi_masks_rle",
    "multiscale_roi_align",
    "nms",
    "pack_conv3x3",
    "paste_masks",
    "rasterize_polygons",
    "rasterize_rle",
]
