// torch's operators that suppression needs; their C++ wrappers are younger than the oldest torch
// served.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdint>
#include <optional>

namespace ops_cuda::gpu {

// Indices that sort each row (or the only one), equal values by index; NaN counts as largest.
inline torch::stable::Tensor stable_order(const torch::stable::Tensor& values, bool falling) {
  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{
      from(values), from(std::optional<bool>(true)), from(int64_t(-1)), from(falling)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  // taken over only to be freed
  const auto sorted = torch::stable::detail::to<torch::stable::Tensor>(stack[0]);
  return torch::stable::detail::to<torch::stable::Tensor>(stack[1]);
}

inline torch::stable::Tensor rows_at(
    const torch::stable::Tensor& table, const torch::stable::Tensor& indices) {
  using torch::stable::detail::from;
  std::array<StableIValue, 3> stack{from(table), from(int64_t(0)), from(indices)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::index_select", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<torch::stable::Tensor>(stack[0]);
}

// Where `mask` is set, ascending, (K, 1). The host waits for their number.
inline torch::stable::Tensor places_of(const torch::stable::Tensor& mask) {
  using torch::stable::detail::from;
  std::array<StableIValue, 1> stack{from(mask)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::nonzero", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<torch::stable::Tensor>(stack[0]);
}

}  // namespace ops_cuda::gpu
