// Reads and writes of several neighboring elements at once, and pointers for them.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstddef>
#include <cstdint>

namespace ops_cuda::gpu {

template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
  T values[N];
};

// Also of types that torch's typed accessors do not offer.
template <typename T>
T* data_pointer(const torch::stable::Tensor& tensor) {
  return static_cast<T*>(const_cast<void*>(tensor.const_data_ptr()));
}

inline bool is_aligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

}  // namespace ops_cuda::gpu
