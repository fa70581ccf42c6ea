// Deformable convolution: argument checks and where each tap of the kernel reads, shared by CPU and
// CUDA.
//
// Source: Dai et al. 2017, section 2.1.

#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "portable.h"

namespace ops_cuda {

using torch::stable::Tensor;

// Shapes of a call. Maps are (images, height, width, channels), columns (images, out_height,
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

// geometry: kernel, stride, padding, dilation, each rows before columns.
inline DeformShape check_deform(
    const Tensor& x, const Tensor& offsets, const std::optional<Tensor>& modulation,
    const std::vector<int64_t>& geometry) {
  STD_TORCH_CHECK(x.dim() == 4 && offsets.dim() == 4, "x and offsets must have 4 dimensions");
  STD_TORCH_CHECK(geometry.size() == 8, "geometry must be 4 pairs");
  DeformShape shape{};
  shape.images = x.size(0), shape.channels = x.size(1);
  shape.height = x.size(2), shape.width = x.size(3);
  shape.out_height = offsets.size(2), shape.out_width = offsets.size(3);
  shape.kernel_height = geometry[0], shape.kernel_width = geometry[1];
  shape.stride_y = geometry[2], shape.stride_x = geometry[3];
  shape.padding_y = geometry[4], shape.padding_x = geometry[5];
  shape.dilation_y = geometry[6], shape.dilation_x = geometry[7];
  STD_TORCH_CHECK(shape.kernel_height > 0 && shape.kernel_width > 0, "the kernel has no taps");
  shape.groups = offsets.size(1) / (2 * shape.taps());
  STD_TORCH_CHECK(
      offsets.size(0) == shape.images && shape.groups > 0 &&
          offsets.size(1) == 2 * shape.groups * shape.taps() &&
          shape.channels % shape.groups == 0,
      "offsets must be (B, 2 * N * T, H', W'), N groups of x's channels");
  if (modulation) {
    STD_TORCH_CHECK(
        modulation->dim() == 4 && modulation->size(0) == shape.images &&
            modulation->size(1) == shape.groups * shape.taps() &&
            modulation->size(2) == shape.out_height && modulation->size(3) == shape.out_width,
        "modulation must be (B, N * T, H', W')");
  }
  return shape;
}

inline void check_deform_gradient(
    const Tensor& gradient, const Tensor& x, const DeformShape& shape) {
  STD_TORCH_CHECK(
      gradient.numel() == shape.images * shape.cells() * shape.taps() * shape.channels &&
          gradient.scalar_type() == x.scalar_type(),
      "gradient must be (B, H', W', T, C) of x's type");
}

// The pixels around the sampling point of one tap. Corners are upper left, upper right, lower left,
// lower right.
template <typename T>
struct TapPoint {
  int64_t pixel[4];
  bool inside[4];  // whether the corner is on the map
  T fraction_y, fraction_x;

  SHARED_INLINE T weight(int corner) const {
    const T along_y = corner < 2 ? T(1) - fraction_y : fraction_y;
    const T along_x = corner % 2 == 0 ? T(1) - fraction_x : fraction_x;
    return along_y * along_x;
  }
};

// Index of a tap's modulation. Its offsets begin at twice the index of cell 0.
SHARED_INLINE int64_t modulation_index(
    const DeformShape& shape, int64_t image, int64_t group, int64_t tap, int64_t cell) {
  return ((image * shape.groups + group) * shape.taps() + tap) * shape.cells() + cell;
}

// Returns the sampling point of a tap at an output cell. A point that is NaN, or a pixel or more
// outside the map, has no corners.
template <typename T>
SHARED_INLINE TapPoint<T> locate_tap(
    const DeformShape& shape, const T* offsets, int64_t image, int64_t group, int64_t tap,
    int64_t cell) {
  const int64_t row = cell / shape.out_width, column = cell % shape.out_width;
  const int64_t first = modulation_index(shape, image, group, tap, 0);
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
    point.inside[corner] = py >= 0 && py < shape.height && px >= 0 && px < shape.width;
    point.pixel[corner] = py * shape.width + px;
  }
  return point;
}

// From the products of the four corners with the incoming gradient: the value of the tap, and its
// derivatives as the tap moves down or to the right.
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
