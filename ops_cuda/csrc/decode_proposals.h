// Decoding of an anchor and its regression deltas to a proposal: argument checks and arithmetic,
// shared by CPU and CUDA.
//
// Source: Girshick et al. 2014, appendix C. Operations are in the order of the reference
// implementation.

#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "portable.h"

namespace ops_cuda {

using torch::stable::Tensor;

// Checks all levels. Returns the largest number of candidates per image of any level.
inline int64_t check_proposal_levels(
    const std::vector<Tensor>& scores, const std::vector<Tensor>& indices,
    const std::vector<Tensor>& deltas, const std::vector<Tensor>& anchors, const Tensor& limits) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(
      limits.dim() == 2 && limits.size(1) == 4 && limits.scalar_type() == ScalarType::Float,
      "limits must be (B, 4) float32");
  const size_t levels = scores.size();
  STD_TORCH_CHECK(
      levels > 0 && indices.size() == levels && deltas.size() == levels &&
          anchors.size() == levels,
      "scores, indices, deltas and anchors must have one tensor per level");
  const int64_t images = limits.size(0);
  int64_t longest = 0;
  for (size_t level = 0; level < levels; ++level) {
    const auto &score = scores[level], &index = indices[level];
    const auto &delta = deltas[level], &anchor = anchors[level];
    STD_TORCH_CHECK(
        score.dim() == 2 && score.size(0) == images && score.scalar_type() == ScalarType::Float,
        "scores must be (B, N) float32");
    STD_TORCH_CHECK(
        index.dim() == 2 && index.size(0) == images && index.size(1) == score.size(1) &&
            index.scalar_type() == ScalarType::Long,
        "indices must be (B, N) int64");
    STD_TORCH_CHECK(
        anchor.dim() == 2 && anchor.size(1) == 4 && anchor.scalar_type() == ScalarType::Float,
        "anchors must be (A, 4) float32");
    STD_TORCH_CHECK(
        delta.dim() == 3 && delta.size(0) == images && delta.size(1) == anchor.size(0) &&
            delta.size(2) == 4 && delta.scalar_type() == ScalarType::Float,
        "deltas must be (B, A, 4) float32");
    longest = std::max(longest, score.size(1));
  }
  return longest;
}

struct DecodingOptions {
  float min_side;          // boxes with a shorter side are dropped, pixels
  float max_log_scale;     // upper bound of the deltas dw and dh
  float min_clipped_side;  // width inside the image of a clipped box beyond the border, pixels

  DecodingOptions(double min_side, double max_log_scale, double min_clipped_side)
      : min_side(static_cast<float>(min_side)),
        max_log_scale(static_cast<float>(max_log_scale)),
        min_clipped_side(static_cast<float>(min_clipped_side)) {}
};

// NaN stays NaN.
SHARED_INLINE float clamp_coordinate(float coordinate, float low, float high) {
  const float raised = coordinate < low ? low : coordinate;
  return raised > high ? high : raised;
}

// Writes the box clipped to its image and returns its score. If the box is dropped, or box or score
// is NaN, the score is -inf and the box zeros. `limits`: width, height, width, height of the image.
SHARED_INLINE float decode_proposal(
    const float* delta, const float* anchor, const float* limits, float score,
    const DecodingOptions& options, float* box) {
  for (int axis = 0; axis < 2; ++axis) {
    const float side = anchor[axis + 2] - anchor[axis];
    const float center = delta[axis] * side + (anchor[axis] + 0.5f * side);
    const float log_scale =
        delta[axis + 2] > options.max_log_scale ? options.max_log_scale : delta[axis + 2];
    const float half = 0.5f * std::exp(log_scale) * side;
    box[axis] = clamp_coordinate(center - half, 0.0f, limits[axis] - options.min_clipped_side);
    box[axis + 2] = clamp_coordinate(center + half, options.min_clipped_side, limits[axis + 2]);
  }
  // written so that NaN is not large
  const bool large =
      box[2] - box[0] >= options.min_side && box[3] - box[1] >= options.min_side;
  if (large && score == score) return score;
  for (int k = 0; k < 4; ++k) box[k] = 0.0f;
  return -std::numeric_limits<float>::infinity();
}

}  // namespace ops_cuda
