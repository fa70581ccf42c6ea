// Bias, shortcut and ReLU after a convolution: argument checks and arithmetic, shared by CPU and
// CUDA.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>

#include "memory_layout.h"
#include "portable.h"

namespace ops_cuda {

using torch::stable::Tensor;

// The checked arguments, all in the layout of x.
struct BiasReluArguments {
  std::optional<Tensor> bias, shortcut;
  int64_t channels;
  int64_t channel_step;  // elements from one channel to the next

  BiasReluArguments(
      const Tensor& x, const std::optional<Tensor>& bias_in,
      const std::optional<Tensor>& shortcut_in) {
    using torch::headeronly::MemoryFormat;
    using torch::headeronly::ScalarType;
    STD_TORCH_CHECK(x.dim() == 4, "x must be (B, C, H, W)");
    const bool last = is_channels_last(x);
    const auto layout = last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
    channels = x.size(1);
    channel_step = last ? 1 : x.size(2) * x.size(3);
    STD_TORCH_CHECK(
        torch::stable::contiguous(x, layout).const_data_ptr() == x.const_data_ptr(),
        "x must be contiguous or channels_last");
    if (bias_in) {
      const bool is_double = x.scalar_type() == ScalarType::Double;
      STD_TORCH_CHECK(
          bias_in->dim() == 1 && bias_in->size(0) == channels &&
              bias_in->scalar_type() == (is_double ? ScalarType::Double : ScalarType::Float),
          "bias must be (C,) float32, or float64 with a float64 map");
      bias = torch::stable::contiguous(*bias_in);
    }
    if (shortcut_in) {
      bool same = shortcut_in->dim() == 4 && shortcut_in->scalar_type() == x.scalar_type();
      for (int64_t d = 0; same && d < 4; ++d) same = shortcut_in->size(d) == x.size(d);
      STD_TORCH_CHECK(same, "shortcut must have the shape and type of x");
      shortcut = torch::stable::contiguous(*shortcut_in, layout);
    }
  }
};

// NaN stays NaN.
template <typename T>
SHARED_INLINE T relu(T value) {
  return value < T(0) ? T(0) : value;
}

}  // namespace ops_cuda
