// Matching of candidates to ground-truth boxes: argument checks and labels, shared by CPU and CUDA.
//
// The arithmetic is torchvision's box_iou in float32, operation by operation, so that candidates
// tie and IoUs reach a threshold exactly where they do there.

#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

#include "box_overlap.h"
#include "portable.h"

namespace ops_cuda {

using torch::stable::Tensor;

constexpr int64_t kPositive = 1, kNegative = 0, kIgnored = -1;

struct MatchThresholds {
  float positive, negative;  // rounded as torch rounds a number it compares with a float tensor

  MatchThresholds(double positive, double negative)
      : positive(static_cast<float>(positive)), negative(static_cast<float>(negative)) {}

  SHARED_INLINE int64_t label(float highest_iou) const {
    return highest_iou >= positive ? kPositive : highest_iou >= negative ? kIgnored : kNegative;
  }
};

// Returns the number of images.
inline int64_t check_match(
    const Tensor& candidates, const Tensor& gt_boxes, const Tensor& gt_offsets) {
  STD_TORCH_CHECK(
      candidates.dim() == 3 && candidates.size(2) == 4, "candidates must be (B or 1, N, 4)");
  STD_TORCH_CHECK(gt_boxes.dim() == 2 && gt_boxes.size(1) == 4, "gt_boxes must be (G, 4)");
  const int64_t images = gt_offsets.numel() - 1;
  STD_TORCH_CHECK(
      images >= 0 && (candidates.size(0) == 1 || candidates.size(0) == images), "candidates of ",
      candidates.size(0), " images, but gt_offsets of ", images);
  return images;
}

}  // namespace ops_cuda
