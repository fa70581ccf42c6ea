// Arguments of the deformable convolution, checked alike on every device.

#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <vector>

#include "deform_geometry.h"

namespace ops_cuda {

// geometry: kernel, stride, padding, dilation, rows before columns.
inline DeformShape deform_shape(
    const torch::stable::Tensor& x, const torch::stable::Tensor& offsets,
    const std::optional<torch::stable::Tensor>& modulation, const std::vector<int64_t>& geometry) {
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

}  // namespace ops_cuda
