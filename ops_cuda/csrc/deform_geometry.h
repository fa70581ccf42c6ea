// Deformable convolution: where each tap of the kernel reads.
//
// Source: Dai et al. 2017, section 2.1.

#pragma once

#include <cmath>
#include <cstdint>

#include "portable.h"

namespace ops_cuda {

// A call's shapes. Maps are (images, height, width, channels), columns (images, out_height,
// out_width, taps, channels), offsets (images, groups, taps, 2, out_height, out_width), modulation
// the same without the 2.
struct DeformShape {
  int64_t images, channels, height, width;
  int64_t out_height, out_width, kernel_height, kernel_width;
  int64_t stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x;
  int64_t groups;

  SHARED_INLINE int64_t taps() const { return kernel_height * kernel_width; }
  SHARED_INLINE int64_t cells() const { return out_height * out_width; }
  SHARED_INLINE int64_t group_channels() const { return channels / groups; }
};

// The pixels around the point of one tap. Corners are upper left, upper right, lower left, lower
// right; those outside the map are not there.
template <typename T>
struct TapPoint {
  int64_t pixel[4];
  bool there[4];
  T fraction_y, fraction_x;

  SHARED_INLINE T weight(int corner) const {
    const T along_y = corner < 2 ? T(1) - fraction_y : fraction_y;
    const T along_x = corner % 2 == 0 ? T(1) - fraction_x : fraction_x;
    return along_y * along_x;
  }
};

// Place of a tap's modulation. Its offsets begin at twice the place of cell 0.
SHARED_INLINE int64_t modulation_place(
    const DeformShape& shape, int64_t image, int64_t group, int64_t tap, int64_t cell) {
  return ((image * shape.groups + group) * shape.taps() + tap) * shape.cells() + cell;
}

// Finds the point of a tap: image, group, tap and output cell. A point that is no number or a pixel
// or more outside has no corners.
template <typename T>
SHARED_INLINE TapPoint<T> find_tap(
    const DeformShape& shape, const T* offsets, int64_t image, int64_t group, int64_t tap,
    int64_t cell) {
  const int64_t row = cell / shape.out_width, column = cell % shape.out_width;
  const int64_t first = modulation_place(shape, image, group, tap, 0);
  const T* shift = offsets + 2 * first + cell;
  const T y = static_cast<T>(row * shape.stride_y - shape.padding_y +
                             tap / shape.kernel_width * shape.dilation_y) +
              shift[0];
  const T x = static_cast<T>(column * shape.stride_x - shape.padding_x +
                             tap % shape.kernel_width * shape.dilation_x) +
              shift[shape.cells()];
  TapPoint<T> point{};
  if (!(y > T(-1) && y < static_cast<T>(shape.height) && x > T(-1) &&
        x < static_cast<T>(shape.width))) {
    return point;
  }
  const T floor_y = std::floor(y), floor_x = std::floor(x);
  const int64_t top = static_cast<int64_t>(floor_y), left = static_cast<int64_t>(floor_x);
  point.fraction_y = y - floor_y;
  point.fraction_x = x - floor_x;
  for (int corner = 0; corner < 4; ++corner) {
    const int64_t py = top + corner / 2, px = left + corner % 2;
    point.there[corner] = py >= 0 && py < shape.height && px >= 0 && px < shape.width;
    point.pixel[corner] = py * shape.width + px;
  }
  return point;
}

// What the corners' products with the incoming gradient say of a tap: its sampled value, and how
// that changes as the tap moves down or to the right.
template <typename T>
struct TapGradient {
  T value, down, right;

  SHARED_INLINE TapGradient(const TapPoint<T>& point, const T products[4]) {
    const T fy = point.fraction_y, fx = point.fraction_x;
    const T top = products[0] + fx * (products[1] - products[0]);
    const T bottom = products[2] + fx * (products[3] - products[2]);
    value = top + fy * (bottom - top);
    down = bottom - top;
    right = (T(1) - fy) * (products[1] - products[0]) + fy * (products[3] - products[2]);
  }
};

}  // namespace ops_cuda
