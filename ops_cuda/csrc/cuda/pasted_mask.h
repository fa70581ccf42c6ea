// A mask on the image, read pixel by pixel; shared by pasting and encoding.

#pragma once

#include <cstdint>

#include "../paste_masks.h"

namespace ops_cuda::gpu {

struct PastedMask {
  const float* mask;
  int64_t side;
  MaskExtent extent;

  // Returns a cell of the mask padded by one cell of zeros, without storing the padding.
  __device__ float padded(int64_t row, int64_t column) const {
    const bool border = row == 0 || column == 0 || row > side || column > side;
    return border ? 0.0f : mask[(row - 1) * side + column - 1];
  }

  // Returns row `row` of the padded mask at one column of the image.
  __device__ float stretched(int64_t row, const MaskSample& column) const {
    return blend(padded(row, column.low), padded(row, column.high), column.fraction);
  }

  __device__ MaskSample column_at(int64_t x) const {
    return extent.x.sample(x, side + 2);
  }

  __device__ MaskSample row_at(int64_t y) const {
    return extent.y.sample(y, side + 2);
  }

  // Returns the probability at a pixel of the extent.
  __device__ float at(int64_t x, int64_t y) const {
    const MaskSample column = column_at(x), row = row_at(y);
    return blend(stretched(row.low, column), stretched(row.high, column), row.fraction);
  }
};

__device__ inline PastedMask pasted_mask(
    const float* masks, const float* boxes, int64_t r, int64_t side, bool grid) {
  return {masks + r * side * side, side, mask_extent(boxes + 4 * r, side, grid)};
}

}  // namespace ops_cuda::gpu
