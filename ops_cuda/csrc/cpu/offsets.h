// Checks of flat lists of lists: entry i of the outer list owns [offsets[i], offsets[i + 1]).

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace ops_cuda::cpu {

using torch::stable::Tensor;

inline void check_offsets(const Tensor& offsets, int64_t end, const char* name) {
  const int64_t* data = offsets.const_data_ptr<int64_t>();
  const int64_t last = offsets.numel() - 1;
  STD_TORCH_CHECK(last >= 0 && data[0] == 0, name, " must start with 0");
  for (int64_t i = 0; i < last; ++i) {
    STD_TORCH_CHECK(data[i] <= data[i + 1], name, " must ascend; entry ", i + 1, " does not");
  }
  STD_TORCH_CHECK(data[last] <= end, name, " reaches ", data[last], " of only ", end);
}

// One object per box, each of them known.
inline void check_objects(const Tensor& objects, const Tensor& boxes, int64_t known) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "boxes must be (R, 4)");
  STD_TORCH_CHECK(objects.numel() == boxes.size(0), "objects must be (R,), one per box");
  const int64_t* wanted = objects.const_data_ptr<int64_t>();
  for (int64_t r = 0; r < objects.numel(); ++r) {
    STD_TORCH_CHECK(
        wanted[r] >= 0 && wanted[r] < known, "objects[", r, "] is ", wanted[r], " of only ", known);
  }
}

}  // namespace ops_cuda::cpu
