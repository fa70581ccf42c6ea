// Kernel launches on torch's current stream of the device of a tensor.

#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <cstdint>

namespace ops_cuda::gpu {

inline cudaStream_t current_stream(const torch::stable::Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Makes the tensor's device current until the end of the scope.
inline torch::stable::accelerator::DeviceGuard on_device_of(const torch::stable::Tensor& tensor) {
  return torch::stable::accelerator::DeviceGuard(tensor.get_device_index());
}

// Number of blocks for `items`. Kernels stride over the grid, so a cap costs nothing and avoids
// overflow.
inline unsigned int blocks_for(int64_t items, int64_t per_block) {
  return static_cast<unsigned int>(
      std::clamp<int64_t>((items + per_block - 1) / per_block, 1, 1 << 20));
}

// Sum over the lanes of a full warp, returned to all of them.
template <typename T>
__device__ T warp_sum(T value) {
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

}  // namespace ops_cuda::gpu
