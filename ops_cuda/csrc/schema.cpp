// Every operator's signature. Kernels register themselves in cpu/*.cpp and cuda/*.cu, fake kernels
// and autograd in Python (ops_cuda/registration.py). Shapes are documented on the Python wrappers.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(ops_cuda, library) {
  library.def("nms(Tensor boxes, Tensor scores, float iou_threshold, int max_kept) -> Tensor");
  library.def(
      "batched_nms(Tensor boxes, Tensor scores, Tensor classes, float iou_threshold, int max_kept)"
      " -> Tensor");
  library.def(
      "surviving_boxes(Tensor boxes, Tensor scores, Tensor classes, float iou_threshold) -> Tensor");
  library.def(
      "grouped_nms(Tensor boxes, Tensor scores, float iou_threshold, int max_kept, bool ranked)"
      " -> (Tensor, Tensor)");
  library.def("top_scores(Tensor scores, int count) -> (Tensor, Tensor)");
  library.def(
      "decode_proposals(Tensor[] scores, Tensor[] indices, Tensor[] deltas, Tensor[] anchors, "
      "Tensor limits, float min_side, float largest_log_scale, float kept_side=0.0)"
      " -> (Tensor, Tensor)");
  library.def(
      "multiscale_roi_align(Tensor[] features, Tensor rois, float[] scales, int output_side, "
      "int sampling_ratio, bool aligned, float canonical_side, int canonical_level, "
      "float trim=0.0) -> Tensor");
  // Of the features only shape, type and layout are read.
  library.def(
      "multiscale_roi_align_backward(Tensor gradient, Tensor[] features, Tensor rois, "
      "float[] scales, int output_side, int sampling_ratio, bool aligned, float canonical_side, "
      "int canonical_level, float trim=0.0) -> Tensor[]");
  library.def(
      "rasterize_polygons(Tensor vertices, Tensor polygon_offsets, Tensor object_offsets, "
      "Tensor objects, Tensor boxes, int side) -> Tensor");
  library.def(
      "rasterize_rle(Tensor run_ends, Tensor run_offsets, Tensor heights, Tensor objects, "
      "Tensor boxes, int side) -> Tensor");
  library.def(
      "paste_masks(Tensor masks, Tensor boxes, int height, int width, float threshold, "
      "bool grid=False) -> Tensor");
  library.def(
      "match_boxes(Tensor candidates, Tensor truths, Tensor truth_offsets, float positive_iou, "
      "float negative_iou, bool keep_best) -> (Tensor, Tensor)");
  library.def(
      "encode_roi_masks_rle(Tensor masks, Tensor boxes, int height, int width, float threshold, "
      "bool grid=False) -> (Tensor, Tensor)");
  library.def("compress_rle(Tensor counts, Tensor offsets) -> (Tensor, Tensor)");
  // Taps of a deformable convolution; geometry: kernel, stride, padding, dilation, rows first.
  library.def(
      "deform_columns(Tensor x, Tensor offsets, Tensor? modulation, int[] geometry) -> Tensor");
  library.def(
      "deform_columns_backward(Tensor gradient, Tensor x, Tensor offsets, Tensor? modulation, "
      "int[] geometry) -> (Tensor, Tensor, Tensor)");
  library.def("resize_image(Tensor pixels, int height, int width) -> Tensor");
  library.def(
      "preprocess(Tensor[] images, int[] heights, int[] widths, int canvas_height, "
      "int canvas_width, float[] mean, float[] std, bool reverse_channels, ScalarType dtype, "
      "bool antialias=True) -> Tensor");
  library.def("pack_conv3x3(Tensor weight) -> Tensor");
  // vector_bytes: the widest registers to use, 64, 32 or 16; the machine may have narrower ones.
  library.def(
      "conv3x3_relu(Tensor x, Tensor packed, Tensor? bias, int out_channels, bool relu, "
      "int vector_bytes=64) -> Tensor");
}
