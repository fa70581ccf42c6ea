// Operators of torch that NMS calls through the dispatcher: their C++ wrappers are newer than the
// oldest torch we support.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdint>
#include <optional>

namespace ops_cuda::gpu {

// Returns the indices that sort each row, equal values by index; NaN is the largest value.
inline torch::stable::Tensor stable_order(const torch::stable::Tensor& values, bool descending) {
  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{
      from(values), from(std::optional<bool>(true)), from(int64_t(-1)), from(descending)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  // converted only to be freed
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

// Returns the indices where `mask` is set, ascending, (N, 1). Their number needs a device sync.
inline torch::stable::Tensor nonzero(const torch::stable::Tensor& mask) {
  using torch::stable::detail::from;
  std::array<StableIValue, 1> stack{from(mask)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::nonzero", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<torch::stable::Tensor>(stack[0]);
}

}  // namespace ops_cuda::gpu
