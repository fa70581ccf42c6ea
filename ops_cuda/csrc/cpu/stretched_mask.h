// A mask whose rows are resized to their pixels on the image, the first step of pasting and of
// encoding.

#pragma once

#include <cstdint>
#include <vector>

#include "../paste_masks.h"

namespace ops_cuda::cpu {

// The cells of the padded mask that a range of output pixels reads along one axis.
struct AxisSamples {
  std::vector<int32_t> low, high;
  std::vector<float> fraction;

  void fill(const MaskAxis& axis, int64_t begin, int64_t end, int64_t source);
};

// The part of one mask that is on the image. The buffers are reused for the next mask.
class StretchedMask {
 public:
  // Row lengths are padded with 0 to a multiple of this, so that readers can process this many at
  // once.
  static constexpr int64_t kColumns = 64;

  // Pixels of the image, right and bottom exclusive; all 0 if no part of the mask is on the image.
  int64_t left = 0, right = 0, top = 0, bottom = 0;

  void fill(
      const float* mask, int64_t side, const MaskExtent& extent, int64_t height, int64_t width);

  // Pixel (x, y) of the image is blend(upper(y)[x - left], lower(y)[x - left], fraction(y)).
  const float* upper(int64_t y) const { return stretched_.data() + rows_.low[y - top] * stride_; }
  const float* lower(int64_t y) const { return stretched_.data() + rows_.high[y - top] * stride_; }
  float fraction(int64_t y) const { return rows_.fraction[y - top]; }

 private:
  int64_t stride_ = 0;
  AxisSamples columns_, rows_;
  std::vector<float> padded_, stretched_;
};

}  // namespace ops_cuda::cpu
