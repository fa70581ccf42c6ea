// Pasting of a mask onto the image: argument checks and geometry, shared by CPU and CUDA.
//
// A mask lands in a box of whole pixels, the geometry of torchvision's paste_masks_in_image and of
// maskrcnn-benchmark's Masker; or on a grid, that of detectron2's paste_masks_in_image. Either way
// the mask has a border of zeros, one cell wide.
//
// Products are fused as torch fuses them for all but small boxes on a processor with FMA, so that
// bits differ from torchvision's only where a probability is within rounding of the threshold.

#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <cstdint>

#include "portable.h"

namespace ops_cuda {

using torch::stable::Tensor;

inline void check_masks(const Tensor& masks, const Tensor& boxes) {
  STD_TORCH_CHECK(
      masks.dim() == 3 && masks.size(1) == masks.size(2) && masks.size(1) > 0,
      "masks must be (R, M, M)");
  STD_TORCH_CHECK(
      boxes.dim() == 2 && boxes.size(1) == 4 && boxes.size(0) == masks.size(0),
      "boxes must be (R, 4), one per mask");
}

// The cells of the bordered mask that one pixel reads along one axis.
struct MaskSample {
  int64_t low, high;
  float fraction;  // weight of high; low has the rest
};

// One axis of a mask on the image. The center of pixel `first` is at 0.5 - start.
struct MaskAxis {
  int64_t first, last;  // pixels that may be set; none if last < first
  float scale, start, offset;

  SHARED_INLINE bool covers(int64_t pixel) const { return pixel >= first && pixel <= last; }

  // `source`: cells of the bordered mask.
  SHARED_INLINE MaskSample sample(int64_t pixel, int64_t source) const {
    float position = scale * (static_cast<float>(pixel - first) + 0.5f - start) + offset;
    if (!(position > 0.0f)) position = 0.0f;
    if (position > static_cast<float>(source)) position = static_cast<float>(source);
    int64_t low = static_cast<int64_t>(position);
    if (low > source - 1) low = source - 1;
    float fraction = position - static_cast<float>(low);
    if (fraction > 1.0f) fraction = 1.0f;
    return {low, low + 1 < source ? low + 1 : low, fraction};
  }
};

struct MaskExtent {
  MaskAxis x, y;
};

// NaN, infinite, or above what a float can resolve in pixels.
SHARED_INLINE bool is_unusable(float coordinate) { return !(std::fabs(coordinate) < 1e12f); }

// The whole pixels from `low` to `high`, both inclusive, to which the bordered mask is resized:
// bilinear, align_corners=False.
SHARED_INLINE MaskAxis whole_pixels(float low, float high, int64_t source) {
  const int64_t first = static_cast<int64_t>(low), last = static_cast<int64_t>(high);
  const int64_t length = last > first ? last - first + 1 : 1;
  return {first, last, static_cast<float>(source) / static_cast<float>(length), 0.0f, -0.5f};
}

// The pixels whose centers read the mask that extends from low to high.
SHARED_INLINE MaskAxis pixel_centers(float low, float high, int64_t mask_side) {
  if (!(high > low)) return {0, -1, 1.0f, 0.0f, 0.0f};
  const float half_cell = 0.5f * (high - low) / static_cast<float>(mask_side);
  const int64_t first = static_cast<int64_t>(std::floor(low - half_cell - 0.5f));
  const int64_t last = static_cast<int64_t>(std::ceil(high + half_cell - 0.5f));
  const float scale = static_cast<float>(mask_side) / (high - low);
  return {first, last, scale, low - static_cast<float>(first), 0.5f};
}

SHARED_INLINE MaskExtent mask_extent(const float* box, int64_t mask_side, bool grid) {
  const float scale = static_cast<float>(static_cast<double>(mask_side + 2) / mask_side);
  const float half_width = (box[2] - box[0]) * 0.5f * scale;
  const float half_height = (box[3] - box[1]) * 0.5f * scale;
  const float x = (box[2] + box[0]) * 0.5f, y = (box[3] + box[1]) * 0.5f;
  const float grown[4] = {x - half_width, y - half_height, x + half_width, y + half_height};
  for (int i = 0; i < 4; ++i) {
    if (is_unusable(grown[i])) return {{0, -1, 1.0f, 0.0f, 0.0f}, {0, -1, 1.0f, 0.0f, 0.0f}};
  }
  if (grid) {
    return {pixel_centers(box[0], box[2], mask_side), pixel_centers(box[1], box[3], mask_side)};
  }
  return {
      whole_pixels(grown[0], grown[2], mask_side + 2),
      whole_pixels(grown[1], grown[3], mask_side + 2)};
}

SHARED_INLINE float blend(float low, float high, float fraction) {
  return std::fma(low, 1.0f - fraction, high * fraction);
}

}  // namespace ops_cuda
