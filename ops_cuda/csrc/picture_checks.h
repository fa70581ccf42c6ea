// What the kernels demand of pictures, for CPU and CUDA.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cmath>
#include <cstdint>
#include <vector>

namespace ops_cuda {

// The picture with its pixels side by side; rows may be any distance apart.
inline torch::stable::Tensor rows_of_pixels(const torch::stable::Tensor& pixels) {
  STD_TORCH_CHECK(
      pixels.dim() == 3 && pixels.size(2) == 3 && pixels.size(0) > 0 && pixels.size(1) > 0 &&
          pixels.scalar_type() == torch::headeronly::ScalarType::Byte,
      "a picture must be (h, w, 3) uint8 and not empty");
  // 2^24: every pixel's number is a float
  STD_TORCH_CHECK(
      pixels.size(0) < (1 << 24) && pixels.size(1) < (1 << 24), "a side exceeds 2^24 pixels");
  const bool side_by_side = pixels.stride(2) == 1 && (pixels.stride(1) == 3 || pixels.size(1) == 1);
  return side_by_side ? pixels : torch::stable::contiguous(pixels);
}

inline void check_batch(
    const std::vector<torch::stable::Tensor>& images, const std::vector<int64_t>& heights,
    const std::vector<int64_t>& widths, int64_t canvas_height, int64_t canvas_width,
    const std::vector<double>& mean, const std::vector<double>& std) {
  STD_TORCH_CHECK(
      !images.empty() && heights.size() == images.size() && widths.size() == images.size(),
      "one height and one width per image, at least one image");
  for (size_t i = 0; i < images.size(); ++i) {
    STD_TORCH_CHECK(
        heights[i] > 0 && heights[i] <= canvas_height && widths[i] > 0 &&
            widths[i] <= canvas_width,
        "image ", i, " does not fit the canvas");
    STD_TORCH_CHECK(images[i].device() == images[0].device(), "images are on different devices");
  }
  STD_TORCH_CHECK(mean.size() == 3 && std.size() == 3, "mean and std have three entries");
  for (const double deviation : std) STD_TORCH_CHECK(deviation > 0, "std must be positive");
}

}  // namespace ops_cuda
