// Signatures of all operators. Kernels register themselves in cpu/*.cpp and cuda/*.cu; fake
// kernels, autocast rules and gradients are registered in Python, next to the wrapper of the
// operator, which also documents the shapes.

#include <torch/csrc/stable/library.h>

// No argument has a default: torch <= 2.10 drops a trailing argument that equals its default before
// it calls an autograd formula, which then returns a gradient too many.

STABLE_TORCH_LIBRARY(ops_cuda, library) {
  library.def("nms(Tensor boxes, Tensor scores, float iou_threshold, int max_kept) -> Tensor");
  library.def(
      "batched_nms(Tensor boxes, Tensor scores, Tensor classes, float iou_threshold, int max_kept)"
      " -> Tensor");
  library.def(
      "batched_nms_mask(Tensor boxes, Tensor scores, Tensor classes, float iou_threshold)"
      " -> Tensor");
  library.def(
      "grouped_nms(Tensor boxes, Tensor scores, float iou_threshold, int max_kept, bool presorted)"
      " -> (Tensor, Tensor)");
  library.def("stable_topk(Tensor scores, int k) -> (Tensor, Tensor)");
  library.def(
      "decode_proposals(Tensor[] scores, Tensor[] indices, Tensor[] deltas, Tensor[] anchors, "
      "Tensor limits, float min_side, float max_log_scale, float min_clipped_side)"
      " -> (Tensor, Tensor)");
  library.def(
      "multiscale_roi_align(Tensor[] features, Tensor rois, float[] scales, int output_side, "
      "int sampling_ratio, bool aligned, float canonical_side, int canonical_level, "
      "float far_corner_inset) -> Tensor");
  // Only shape, type and layout of the features are read.
  library.def(
      "multiscale_roi_align_backward(Tensor gradient, Tensor[] features, Tensor rois, "
      "float[] scales, int output_side, int sampling_ratio, bool aligned, float canonical_side, "
      "int canonical_level, float far_corner_inset) -> Tensor[]");
  library.def(
      "rasterize_polygons(Tensor vertices, Tensor polygon_offsets, Tensor object_offsets, "
      "Tensor object_indices, Tensor boxes, int side) -> Tensor");
  library.def(
      "rasterize_rle(Tensor run_ends, Tensor run_offsets, Tensor heights, Tensor object_indices, "
      "Tensor boxes, int side) -> Tensor");
  library.def(
      "paste_masks(Tensor masks, Tensor boxes, int height, int width, float threshold, "
      "bool grid) -> Tensor");
  library.def(
      "match_boxes(Tensor candidates, Tensor gt_boxes, Tensor gt_offsets, float positive_iou, "
      "float negative_iou, bool allow_low_quality) -> (Tensor, Tensor)");
  library.def(
      "encode_roi_masks_rle(Tensor masks, Tensor boxes, int height, int width, float threshold, "
      "bool grid) -> (Tensor, Tensor)");
  library.def("compress_rle(Tensor counts, Tensor offsets) -> (Tensor, Tensor)");
  // geometry: kernel, stride, padding and dilation, each rows before columns.
  library.def(
      "deform_columns(Tensor x, Tensor offsets, Tensor? modulation, int[] geometry) -> Tensor");
  library.def(
      "deform_columns_backward(Tensor gradient, Tensor x, Tensor offsets, Tensor? modulation, "
      "int[] geometry) -> (Tensor, Tensor, Tensor)");
  library.def("resize_image(Tensor pixels, int height, int width) -> Tensor");
  library.def(
      "preprocess(Tensor[] images, int[] heights, int[] widths, int canvas_height, "
      "int canvas_width, float[] mean, float[] std, bool reverse_channels, ScalarType dtype, "
      "bool antialias) -> Tensor");
  // bias has the type in which x is summed.
  library.def(
      "add_bias_relu_(Tensor(a!) x, Tensor? bias, Tensor? shortcut, bool relu) -> ()");
  library.def("pack_conv3x3(Tensor weight) -> Tensor");
  // vector_bytes: the widest registers to use, 64, 32 or 16; the machine may have narrower ones.
  library.def(
      "conv3x3_relu(Tensor x, Tensor packed, Tensor? bias, int out_channels, bool relu, "
      "int vector_bytes) -> Tensor");
}
