// Matrix product of Winograd's convolution: sums stay in registers, a row of weights is loaded once
// for all tiles of a call, and an element of a tile is broadcast to all output channels.

#pragma once

#include <cstdint>

#include "winograd.h"
#include "winograd_vector.h"

namespace ops_cuda::cpu {

constexpr int kVectorsPerRow = 2;

// Computes columns [0, 2 vectors) of `rows` rows.
template <int bytes, int rows>
SHARED_INLINE void multiply_strip(
    const float* tiles, int64_t tile_stride, const float* weights, int64_t depth,
    float* products, int64_t product_stride) {
  using V = typename Vector<bytes>::type;
  constexpr int64_t lanes = bytes / sizeof(float);
  V sums[rows][kVectorsPerRow] = {};
  for (int64_t k = 0; k < depth; ++k) {
    V w[kVectorsPerRow];
    for (int v = 0; v < kVectorsPerRow; ++v) {
      w[v] = *reinterpret_cast<const V*>(weights + k * kPanel + v * lanes);
    }
    for (int row = 0; row < rows; ++row) {
      const float element = tiles[row * tile_stride + k];
      for (int v = 0; v < kVectorsPerRow; ++v) sums[row][v] += element * w[v];
    }
  }
  for (int row = 0; row < rows; ++row) {
    for (int v = 0; v < kVectorsPerRow; ++v) {
      *reinterpret_cast<V*>(products + row * product_stride + v * lanes) = sums[row][v];
    }
  }
}

// Computes `count` rows, at most `rows`: each number of rows has its own loop.
template <int bytes, int rows>
SHARED_INLINE void multiply(
    const float* tiles, int64_t tile_stride, const float* weights, int64_t depth, int64_t count,
    float* products, int64_t product_stride) {
  if constexpr (rows > 1) {
    if (count < rows) {
      multiply<bytes, rows - 1>(
          tiles, tile_stride, weights, depth, count, products, product_stride);
      return;
    }
  }
  constexpr int64_t strip = kVectorsPerRow * bytes / sizeof(float);
  for (int64_t column = 0; column < kPanel; column += strip) {
    multiply_strip<bytes, rows>(
        tiles, tile_stride, weights + column, depth, products + column, product_stride);
  }
}

}  // namespace ops_cuda::cpu
