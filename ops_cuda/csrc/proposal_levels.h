// What decode_proposals demands of its tensors, for CPU and CUDA.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace ops_cuda {

// Checks all levels; returns the most candidates that a level has.
inline int64_t check_proposal_levels(
    const std::vector<torch::stable::Tensor>& scores,
    const std::vector<torch::stable::Tensor>& indices,
    const std::vector<torch::stable::Tensor>& deltas,
    const std::vector<torch::stable::Tensor>& anchors, const torch::stable::Tensor& limits) {
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
        "scores must be (B, K) float32");
    STD_TORCH_CHECK(
        index.dim() == 2 && index.size(0) == images && index.size(1) == score.size(1) &&
            index.scalar_type() == ScalarType::Long,
        "indices must be (B, K) int64");
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

}  // namespace ops_cuda
