// One mask on the image, read pixel by pixel: what pasting and run lengths have in common.

#pragma once

#include <cstdint>

#include "../mask_geometry.h"

namespace ops_cuda::gpu {

struct PastedMask {
  const float* mask;
  int64_t side;
  PixelBox box;

  // A pixel of the mask padded by one pixel of zeros, without storing the padding.
  __device__ float padded(int64_t row, int64_t column) const {
    const bool border = row == 0 || column == 0 || row > side || column > side;
    return border ? 0.0f : mask[(row - 1) * side + column - 1];
  }

  // Row `row` of the padded mask, resized to the box's width, at one column.
  __device__ float stretched(int64_t row, const MaskSample& column) const {
    return blend(padded(row, column.low), padded(row, column.high), column.fraction);
  }

  __device__ MaskSample column_at(int64_t x) const {
    return mask_sample(x - box.x1, box.width(), side + 2);
  }

  __device__ MaskSample row_at(int64_t y) const {
    return mask_sample(y - box.y1, box.height(), side + 2);
  }

  // The probability at a pixel inside the box.
  __device__ float at(int64_t x, int64_t y) const {
    const MaskSample column = column_at(x), row = row_at(y);
    return blend(stretched(row.low, column), stretched(row.high, column), row.fraction);
  }
};

__device__ inline PastedMask pasted_mask(
    const float* masks, const float* boxes, int64_t r, int64_t side) {
  return {masks + r * side * side, side, padded_box(boxes + 4 * r, side)};
}

}  // namespace ops_cuda::gpu
