"""Pure-torch twins of every compiled operator: the oracle of its tests and the fallback.

They say what an operator means in the fewest operations; speed is the compiled library's business.
Arguments are taken as valid: the public wrappers have checked them. Boxes are x1 y1 x2 y2.
"""

from ops_cuda.reference.conv import conv3x3_relu, pack_conv3x3
from ops_cuda.reference.deform_conv import deform_conv2d
from ops_cuda.reference.grouped_nms import grouped_nms
from ops_cuda.reference.match_boxes import match_boxes
from ops_cuda.reference.nms import batched_nms, nms, surviving_boxes
from ops_cuda.reference.paste_masks import paste_masks
from ops_cuda.reference.polygon_masks import rasterize_polygons
from ops_cuda.reference.preprocess import preprocess, resize_image
from ops_cuda.reference.proposals import decode_proposals, top_scores
from ops_cuda.reference.rle import compress_rle, encode_roi_masks_rle
from ops_cuda.reference.roi_align import multiscale_roi_align
from ops_cuda.reference.run_length_masks import rasterize_rle

__all__ = [
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
    "surviving_boxes",
    "top_scores",
]
