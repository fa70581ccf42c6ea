// Resizing and preprocessing of images: argument checks and interpolation weights, shared by CPU
// and CUDA.
//
// Two filters: Pillow's antialiased bilinear one, a triangle as wide as the scale, at least one pixel
// to each side, in Pillow's fixed-point arithmetic; and the plain bilinear one of torch and OpenCV,
// one pixel to each side whatever the scale. Positions are float64: a float32 position would be off
// by an eighth of a level on an image of 8,192 pixels.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "portable.h"

namespace ops_cuda {

using torch::stable::Tensor;

// Checks an image and returns it with adjacent pixels; its rows may have any stride.
inline Tensor with_adjacent_pixels(const Tensor& pixels) {
  STD_TORCH_CHECK(
      pixels.dim() == 3 && pixels.size(2) == 3 && pixels.size(0) > 0 && pixels.size(1) > 0 &&
          pixels.scalar_type() == torch::headeronly::ScalarType::Byte,
      "an image must be (h, w, 3) uint8 and not empty");
  // 2^24: every pixel index is exact as a float
  STD_TORCH_CHECK(
      pixels.size(0) < (1 << 24) && pixels.size(1) < (1 << 24), "a side exceeds 2^24 pixels");
  const bool adjacent = pixels.stride(2) == 1 && (pixels.stride(1) == 3 || pixels.size(1) == 1);
  return adjacent ? pixels : torch::stable::contiguous(pixels);
}

inline void check_output_size(int64_t height, int64_t width) {
  STD_TORCH_CHECK(height > 0 && width > 0, "height and width must be positive");
}

inline void check_batch(
    const std::vector<Tensor>& images, const std::vector<int64_t>& heights,
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
  STD_TORCH_CHECK(mean.size() == 3 && std.size() == 3, "mean and std must have three entries");
  for (const double deviation : std) STD_TORCH_CHECK(deviation > 0, "std must be positive");
}

// The source pixels [first, first + count) of one output position along one axis, by the plain
// bilinear filter.
struct BilinearTaps {
  int64_t first, count;
  float offset;       // weight of tap k before normalizing: 1 - |offset + k|
  float inverse_sum;  // of these weights

  SHARED_INLINE float raw_weight(int64_t k) const {
    const float weight = 1.0f - std::fabs(offset + static_cast<float>(k));
    return weight > 0.0f ? weight : 0.0f;
  }

  SHARED_INLINE float weight(int64_t k) const { return raw_weight(k) * inverse_sum; }
};

SHARED_INLINE BilinearTaps bilinear_taps(int64_t index, int64_t length, int64_t source) {
  const double scale = static_cast<double>(source) / static_cast<double>(length);
  const double center = (static_cast<double>(index) + 0.5) * scale;
  const int64_t first = center > 0.5 ? static_cast<int64_t>(center - 0.5) : 0;
  int64_t last = static_cast<int64_t>(center + 1.5);
  if (last > source) last = source;
  BilinearTaps taps{
      first, last - first, static_cast<float>(static_cast<double>(first) + 0.5 - center), 0.0f};
  float sum = 0.0f;
  for (int64_t k = 0; k < taps.count; ++k) sum += taps.raw_weight(k);
  taps.inverse_sum = 1.0f / sum;
  return taps;
}

// Bits behind the point of a weight in Pillow: a sum of products with levels fits 32 bits.
constexpr int kPillowBits = 22;
constexpr int32_t kPillowHalf = 1 << (kPillowBits - 1);

// The same by Pillow's filter, with its rounding of every step.
struct PillowTaps {
  int64_t first, count;
  double center, inverse_support, sum;

  SHARED_INLINE double raw_weight(int64_t k) const {
    const double distance =
        std::fabs((static_cast<double>(first + k) - center + 0.5) * inverse_support);
    return distance < 1.0 ? 1.0 - distance : 0.0;
  }

  SHARED_INLINE int32_t weight(int64_t k) const {
    return static_cast<int32_t>(0.5 + raw_weight(k) / sum * (1 << kPillowBits));
  }
};

SHARED_INLINE PillowTaps pillow_taps(int64_t index, int64_t length, int64_t source) {
  const double scale = static_cast<double>(source) / static_cast<double>(length);
  const double support = scale > 1.0 ? scale : 1.0;
  const double center = (static_cast<double>(index) + 0.5) * scale;
  const double low = center - support + 0.5;
  const int64_t first = low > 0.0 ? static_cast<int64_t>(low) : 0;
  int64_t last = static_cast<int64_t>(center + support + 0.5);
  if (last > source) last = source;
  PillowTaps taps{first, last - first, center, 1.0 / support, 0.0};
  for (int64_t k = 0; k < taps.count; ++k) taps.sum += taps.raw_weight(k);
  return taps;
}

// Whether rows are resized before columns. Pillow 13 does so if the height shrinks by more than twice
// what the width does, earlier versions never. Levels are rounded after each, so the order matters.
SHARED_INLINE bool resizes_rows_first(
    int64_t height, int64_t width, int64_t source_height, int64_t source_width) {
  return height < source_height && source_height - height > 2 * (source_width - width);
}

}  // namespace ops_cuda
