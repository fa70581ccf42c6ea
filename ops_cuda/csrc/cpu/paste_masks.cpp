// Pasting of ROI masks to bitmaps: inside each box pairs of stretched rows are blended, and every
// byte of a bitmap is written once.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>

#include "huge_pages.h"
#include "simd.h"
#include "stretched_mask.h"

namespace ops_cuda::cpu {

using torch::stable::Tensor;

MULTIVERSION void blend_and_compare(
    const float* __restrict upper, const float* __restrict lower, float fraction, float threshold,
    int64_t count, uint8_t* __restrict output) {
  for (int64_t i = 0; i < count; ++i) {
    output[i] = blend(upper[i], lower[i], fraction) > threshold;
  }
}

// Writes one uninitialized bitmap.
void write_bitmap(
    const StretchedMask& mask, int64_t height, int64_t width, float threshold, uint8_t* bitmap) {
  uint8_t* written = bitmap;  // up to here
  for (int64_t y = mask.top; y < mask.bottom; ++y) {
    uint8_t* span = bitmap + y * width + mask.left;
    const int64_t count = mask.right - mask.left;
    std::fill(written, span, uint8_t(0));
    blend_and_compare(mask.upper(y), mask.lower(y), mask.fraction(y), threshold, count, span);
    written = span + count;
  }
  std::fill(written, bitmap + height * width, uint8_t(0));
}

Tensor paste_masks(
    const Tensor& masks_in, const Tensor& boxes_in, int64_t height, int64_t width,
    double threshold, bool grid) {
  const Tensor masks = torch::stable::contiguous(masks_in);
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  check_masks(masks, boxes);
  const int64_t count = masks.size(0), side = masks.size(1);
  Tensor bitmaps = torch::stable::new_empty(
      masks, {count, height, width}, torch::headeronly::ScalarType::Byte);
  const float* mask_data = masks.const_data_ptr<float>();
  const float* box_data = boxes.const_data_ptr<float>();
  uint8_t* bitmap_data = bitmaps.mutable_data_ptr<uint8_t>();
  prefer_huge_pages(bitmap_data, bitmaps.numel());
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    StretchedMask mask;
    for (int64_t r = begin; r < end; ++r) {
      const MaskExtent extent = mask_extent(box_data + 4 * r, side, grid);
      mask.fill(mask_data + r * side * side, side, extent, height, width);
      write_bitmap(
          mask, height, width, static_cast<float>(threshold), bitmap_data + r * height * width);
    }
  });
  return bitmaps;
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("paste_masks", TORCH_BOX(&ops_cuda::cpu::paste_masks));
}
