// Checks of index values, which only the CPU kernels can read without a device sync.

#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

namespace ops_cuda::cpu {

using torch::stable::Tensor;

// Offsets of a flat list of lists: entry i owns [offsets[i], offsets[i + 1]).
inline void check_offsets(const Tensor& offsets, int64_t end, const char* name) {
  const int64_t* data = offsets.const_data_ptr<int64_t>();
  const int64_t last = offsets.numel() - 1;
  STD_TORCH_CHECK(last >= 0 && data[0] == 0, name, " must start with 0");
  for (int64_t i = 0; i < last; ++i) {
    STD_TORCH_CHECK(data[i] <= data[i + 1], name, " must ascend; entry ", i + 1, " does not");
  }
  STD_TORCH_CHECK(
      data[last] <= end, name, " ends at ", data[last], ", beyond the ", end, " entries");
}

inline void check_object_indices(const Tensor& indices, int64_t objects) {
  const int64_t* data = indices.const_data_ptr<int64_t>();
  for (int64_t r = 0; r < indices.numel(); ++r) {
    STD_TORCH_CHECK(
        data[r] >= 0 && data[r] < objects, "object_indices[", r, "] is ", data[r],
        "; there are ", objects, " objects");
  }
}

}  // namespace ops_cuda::cpu
