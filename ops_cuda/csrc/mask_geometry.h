// Where a mask lands on the image, for CPU and CUDA: the geometry of torchvision's
// paste_masks_in_image and of maskrcnn-benchmark's Masker.
//
// Products are fused as torch fuses them for all but small boxes on a processor with FMA, so that
// bits differ from torchvision's only where a probability is within rounding of the threshold.

#pragma once

#include <cmath>
#include <cstdint>

#include "portable.h"

namespace ops_cuda {

// A box grown like its mask padded by one pixel, in whole pixels, both corners inclusive.
struct PixelBox {
  int64_t x1, y1, x2, y2;

  SHARED_INLINE int64_t width() const { return x2 > x1 ? x2 - x1 + 1 : 1; }
  SHARED_INLINE int64_t height() const { return y2 > y1 ? y2 - y1 + 1 : 1; }
};

SHARED_INLINE PixelBox padded_box(const float* box, int64_t mask_side) {
  const float scale = static_cast<float>(static_cast<double>(mask_side + 2) / mask_side);
  const float half_width = (box[2] - box[0]) * 0.5f * scale;
  const float half_height = (box[3] - box[1]) * 0.5f * scale;
  const float x = (box[2] + box[0]) * 0.5f, y = (box[3] + box[1]) * 0.5f;
  const float grown[4] = {x - half_width, y - half_height, x + half_width, y + half_height};
  int64_t whole[4];
  for (int i = 0; i < 4; ++i) {
    // not a finite number, or beyond the pixels that a float can tell apart: nowhere
    if (!(std::fabs(grown[i]) < 1e12f)) return {-2, -2, -3, -3};
    whole[i] = static_cast<int64_t>(grown[i]);
  }
  return {whole[0], whole[1], whole[2], whole[3]};
}

// Where pixel `index` of `length` reads `source` pixels: bilinear, align_corners=False.
struct MaskSample {
  int64_t low, high;
  float fraction;  // of high; low has the rest
};

SHARED_INLINE MaskSample mask_sample(int64_t index, int64_t length, int64_t source) {
  const float scale = static_cast<float>(source) / static_cast<float>(length);
  float at = scale * (static_cast<float>(index) + 0.5f) - 0.5f;
  if (at < 0.0f) at = 0.0f;
  int64_t low = static_cast<int64_t>(at);
  if (low > source - 1) low = source - 1;
  float fraction = at - static_cast<float>(low);
  if (fraction > 1.0f) fraction = 1.0f;
  return {low, low + 1 < source ? low + 1 : low, fraction};
}

SHARED_INLINE float blend(float low, float high, float fraction) {
  return std::fma(low, 1.0f - fraction, high * fraction);
}

}  // namespace ops_cuda
