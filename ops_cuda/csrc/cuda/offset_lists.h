// Flat lists of lists on the device, with unverified offsets: ranges are clamped to the length, so
// that wrong offsets give wrong results but no access out of bounds.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace ops_cuda::gpu {

struct Range {
  int64_t begin, end;
};

__device__ inline int64_t minimum(int64_t one, int64_t other) { return one < other ? one : other; }

__device__ inline int64_t clamp(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : minimum(value, high);
}

// List i owns [offsets[i], offsets[i + 1]) of `length` entries.
struct FlatLists {
  const int64_t* offsets;
  int64_t count, length;

  __device__ Range range(int64_t i) const {
    if (i < 0 || i >= count) return {0, 0};
    const int64_t begin = clamp(offsets[i], 0, length);
    return {begin, clamp(offsets[i + 1], begin, length)};
  }
};

inline FlatLists flat_lists(const torch::stable::Tensor& offsets, int64_t length) {
  return {offsets.const_data_ptr<int64_t>(), offsets.numel() - 1, length};
}

}  // namespace ops_cuda::gpu
