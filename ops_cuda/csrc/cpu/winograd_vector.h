// Vectors of explicit width, unlike Lanes in simd.h: the sums of a matrix product stay in registers
// only if a vector is one register.

#pragma once

#include <cstdint>
#include <cstring>

#include "../portable.h"

namespace ops_cuda::cpu {

template <int bytes>
struct Vector {
  typedef float type __attribute__((vector_size(bytes), aligned(4), may_alias));
};

// Loads a full vector, or `count` floats padded with zeros.
template <int bytes>
SHARED_INLINE typename Vector<bytes>::type load(const float* source, int64_t count) {
  using V = typename Vector<bytes>::type;
  constexpr int64_t lanes = bytes / sizeof(float);
  if (count >= lanes) return *reinterpret_cast<const V*>(source);
  float padded[lanes] = {};
  std::memcpy(padded, source, count * sizeof(float));
  return *reinterpret_cast<const V*>(padded);
}

template <int bytes>
SHARED_INLINE void store(float* target, typename Vector<bytes>::type value, int64_t count) {
  using V = typename Vector<bytes>::type;
  constexpr int64_t lanes = bytes / sizeof(float);
  if (count >= lanes) {
    *reinterpret_cast<V*>(target) = value;
    return;
  }
  float padded[lanes];
  *reinterpret_cast<V*>(padded) = value;
  std::memcpy(target, padded, count * sizeof(float));
}

}  // namespace ops_cuda::cpu
