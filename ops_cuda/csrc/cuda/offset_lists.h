// Flat lists of lists on the device, whose offsets nobody has looked at: ranges are clamped to what
// there is, so that wrong offsets give wrong masks but read nothing outside.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace ops_cuda::gpu {

struct Range {
  int64_t begin, end;
};

__device__ inline int64_t least(int64_t one, int64_t other) { return one < other ? one : other; }

__device__ inline int64_t clamped(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : least(value, high);
}

// List i owns [offsets[i], offsets[i + 1]) of `length` entries.
struct FlatLists {
  const int64_t* offsets;
  int64_t count, length;

  __device__ Range range(int64_t i) const {
    if (i < 0 || i >= count) return {0, 0};
    const int64_t begin = clamped(offsets[i], 0, length);
    return {begin, clamped(offsets[i + 1], begin, length)};
  }
};

inline FlatLists flat_lists(const torch::stable::Tensor& offsets, int64_t length) {
  return {offsets.const_data_ptr<int64_t>(), offsets.numel() - 1, length};
}

}  // namespace ops_cuda::gpu
