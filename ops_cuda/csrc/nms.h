// Argument checks of non-maximum suppression, shared by CPU and CUDA.

#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

namespace ops_cuda {

using torch::stable::Tensor;

inline void check_boxes(const Tensor& boxes, const Tensor& scores) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "boxes must be (N, 4)");
  STD_TORCH_CHECK(
      scores.dim() == 1 && scores.size(0) == boxes.size(0), "scores must be (N,), one per box");
  STD_TORCH_CHECK(scores.scalar_type() == boxes.scalar_type(), "boxes and scores differ in type");
}

inline void check_classes(const Tensor& boxes, const Tensor& classes) {
  STD_TORCH_CHECK(
      classes.dim() == 1 && classes.size(0) == boxes.size(0) &&
          classes.scalar_type() == torch::headeronly::ScalarType::Long,
      "classes must be (N,) int64, one per box");
}

inline void check_groups(const Tensor& boxes, const Tensor& scores, int64_t max_kept) {
  STD_TORCH_CHECK(boxes.dim() == 3 && boxes.size(2) == 4, "boxes must be (groups, N, 4)");
  STD_TORCH_CHECK(
      scores.dim() == 2 && scores.size(0) == boxes.size(0) && scores.size(1) == boxes.size(1),
      "scores must be (groups, N), one per box");
  STD_TORCH_CHECK(scores.scalar_type() == boxes.scalar_type(), "boxes and scores differ in type");
  STD_TORCH_CHECK(max_kept >= 0, "max_kept must not be negative");
}

}  // namespace ops_cuda
