// Dispatch over the floating-point types of the kernels, and the type of their sums.

#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

namespace ops_cuda::gpu {

// Half types are summed in float32.
template <typename T>
using SumType = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Calls run(T()) with the type of the tensor, called `name` in the error.
template <typename Run>
auto dispatch_floating(const torch::stable::Tensor& tensor, const char* name, Run run) {
  using torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return run(double());
    case ScalarType::Half:
      return run(torch::headeronly::Half());
    case ScalarType::BFloat16:
      return run(torch::headeronly::BFloat16());
    default:
      STD_TORCH_CHECK(
          tensor.scalar_type() == ScalarType::Float, name, " must be floating point");
      return run(float());
  }
}

}  // namespace ops_cuda::gpu
