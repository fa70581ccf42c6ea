// Winograd's minimal filtering F(4x4, 3x3): interface between conv3x3.cpp and the inner loops.
//
// An output tile of 4 x 4 pixels needs 36 products per pair of channels instead of 144: the 6 x 6
// patch of input and the 3 x 3 filter are transformed, multiplied element by element and
// transformed back. Over many tiles the 36 elements are 36 matrix products.
//
// Source: Lavin & Gray 2016 (arXiv:1509.09308), section 4.3; points 0, +-1, +-2 and infinity.

#pragma once

#include <cstdint>

namespace ops_cuda::cpu {

constexpr int64_t kTileSide = 4;
constexpr int64_t kPatchSide = 6;
constexpr int64_t kTilePixels = kTileSide * kTileSide;
constexpr int64_t kPatchPixels = kPatchSide * kPatchSide;
// Output channels that are adjacent in packed weights: two AVX-512 registers.
constexpr int64_t kPanel = 32;

// The inner loops for one instruction set. The rounding of an output does not depend on which tiles
// and channels are computed with it.
struct WinogradKernels {
  int64_t max_rows;  // tiles per call of multiply

  // Transforms the patch of one tile, 36 pixels of `channels` floats, to row 0 of 36 matrices that
  // are `matrix_stride` floats apart; rows are written up to a multiple of 16 channels.
  void (*transform_input)(
      const float* const* patch, int64_t channels, float* matrices, int64_t matrix_stride);

  // products (rows, kPanel) = tiles (rows, depth) * weights (depth, kPanel); 1..max_rows rows.
  void (*multiply)(
      const float* tiles, int64_t tile_stride, const float* weights, int64_t depth, int64_t rows,
      float* products, int64_t product_stride);

  // Transforms row 0 of 36 matrices of products to one tile, 16 pixels of `channels` floats.
  // `bias` and the rows of the matrices are padded to whole panels.
  void (*transform_output)(
      const float* matrices, int64_t matrix_stride, const float* bias, bool relu,
      int64_t channels, float* const* tile);
};

// Returns the kernels with the widest registers that the machine has and `widest_bytes` allows: 64
// for AVX-512, 32 for AVX2, 16 for any processor.
const WinogradKernels& winograd_kernels(int64_t widest_bytes);

}  // namespace ops_cuda::cpu
