// Memory layout of maps and of results computed from them.

#pragma once

#include <torch/csrc/stable/tensor.h>

namespace ops_cuda {

// Whether results get the channels_last layout; fake kernels decide the same way
// (registration.result_layout).
inline bool is_channels_last(const torch::stable::Tensor& map) {
  return map.stride(1) == 1 && map.size(1) > 1;
}

}  // namespace ops_cuda
