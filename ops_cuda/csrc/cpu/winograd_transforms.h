// Winograd's transforms of input patches and output tiles, vectorized over channels.
//
// Source: Lavin & Gray 2016, section 4.3, with common subexpressions shared.

#pragma once

#include <cstdint>
#include <cstring>

#include "winograd.h"
#include "winograd_vector.h"

namespace ops_cuda::cpu {

// B^T d: six elements of a patch's row or column.
template <typename V>
SHARED_INLINE void transform_patch_line(const V* d, V* out) {
  const V even = d[4] - 4.0f * d[2], odd = d[3] - 4.0f * d[1];
  const V far_even = d[4] - d[2], far_odd = d[3] - d[1];
  out[0] = 4.0f * d[0] + (d[4] - 5.0f * d[2]);
  out[1] = even + odd;
  out[2] = even - odd;
  out[3] = far_even + 2.0f * far_odd;
  out[4] = far_even - 2.0f * far_odd;
  out[5] = 4.0f * d[1] + (d[5] - 5.0f * d[3]);
}

// A^T m: four outputs of six products.
template <typename V>
SHARED_INLINE void transform_product_line(const V* m, V* out) {
  const V near_sum = m[1] + m[2], near_difference = m[1] - m[2];
  const V far_sum = m[3] + m[4], far_difference = m[3] - m[4];
  out[0] = m[0] + near_sum + far_sum;
  out[1] = near_difference + 2.0f * far_difference;
  out[2] = near_sum + 4.0f * far_sum;
  out[3] = (near_difference + m[5]) + 8.0f * far_difference;
}

template <int bytes>
SHARED_INLINE void transform_input(
    const float* const* patch, int64_t channels, float* matrices, int64_t matrix_stride) {
  using V = typename Vector<bytes>::type;
  constexpr int64_t lanes = bytes / sizeof(float);
  for (int64_t c = 0; c < channels; c += lanes) {
    V half[kPatchSide][kPatchSide];  // transposed: [x][y]
    for (int64_t x = 0; x < kPatchSide; ++x) {
      V column[kPatchSide];
      for (int64_t y = 0; y < kPatchSide; ++y) {
        column[y] = load<bytes>(patch[y * kPatchSide + x] + c, channels - c);
      }
      transform_patch_line(column, half[x]);
    }
    for (int64_t y = 0; y < kPatchSide; ++y) {
      V row[kPatchSide], out[kPatchSide];
      for (int64_t x = 0; x < kPatchSide; ++x) row[x] = half[x][y];
      transform_patch_line(row, out);
      for (int64_t x = 0; x < kPatchSide; ++x) {
        store<bytes>(matrices + (y * kPatchSide + x) * matrix_stride + c, out[x], lanes);
      }
    }
  }
}

template <int bytes>
SHARED_INLINE void transform_output(
    const float* matrices, int64_t matrix_stride, const float* bias, bool relu, int64_t channels,
    float* const* tile) {
  using V = typename Vector<bytes>::type;
  constexpr int64_t lanes = bytes / sizeof(float);
  for (int64_t c = 0; c < channels; c += lanes) {
    V half[kPatchSide][kTileSide];  // transposed: [x][y]
    for (int64_t x = 0; x < kPatchSide; ++x) {
      V column[kPatchSide];
      for (int64_t y = 0; y < kPatchSide; ++y) {
        column[y] = load<bytes>(matrices + (y * kPatchSide + x) * matrix_stride + c, lanes);
      }
      transform_product_line(column, half[x]);
    }
    const V offset = load<bytes>(bias + c, lanes);
    for (int64_t y = 0; y < kTileSide; ++y) {
      V row[kPatchSide], out[kTileSide];
      for (int64_t x = 0; x < kPatchSide; ++x) row[x] = half[x][y];
      transform_product_line(row, out);
      for (int64_t x = 0; x < kTileSide; ++x) {
        V value = out[x] + offset;
        // written so that NaN stays NaN
        if (relu) value = value < 0.0f ? V{} : value;
        store<bytes>(tile[y * kTileSide + x] + c, value, channels - c);
      }
    }
  }
}

}  // namespace ops_cuda::cpu
