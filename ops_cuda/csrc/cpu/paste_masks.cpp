// Masks from ROI space to bitmaps: inside each box pairs of stretched rows are blended, and every
// byte of a canvas is written once.

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

// Fills one uninitialised canvas.
void write_canvas(
    const StretchedMask& mask, int64_t height, int64_t width, float threshold, uint8_t* canvas) {
  uint8_t* written = canvas;  // up to here
  for (int64_t y = mask.top; y < mask.bottom; ++y) {
    uint8_t* span = canvas + y * width + mask.left;
    const int64_t count = mask.right - mask.left;
    std::fill(written, span, uint8_t(0));
    blend_and_compare(mask.upper(y), mask.lower(y), mask.fraction(y), threshold, count, span);
    written = span + count;
  }
  std::fill(written, canvas + height * width, uint8_t(0));
}

Tensor paste_masks(
    const Tensor& masks_in, const Tensor& boxes_in, int64_t height, int64_t width,
    double threshold, bool grid) {
  const Tensor masks = torch::stable::contiguous(masks_in);
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  STD_TORCH_CHECK(
      masks.dim() == 3 && masks.size(1) == masks.size(2) && masks.size(1) > 0,
      "masks must be (R, M, M)");
  STD_TORCH_CHECK(
      boxes.dim() == 2 && boxes.size(1) == 4 && boxes.size(0) == masks.size(0),
      "boxes must be (R, 4), one per mask");
  const int64_t count = masks.size(0), side = masks.size(1);
  Tensor canvases = torch::stable::new_empty(
      masks, {count, height, width}, torch::headeronly::ScalarType::Byte);
  const float* mask_data = masks.const_data_ptr<float>();
  const float* box_data = boxes.const_data_ptr<float>();
  uint8_t* canvas_data = canvases.mutable_data_ptr<uint8_t>();
  prefer_huge_pages(canvas_data, canvases.numel());
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    StretchedMask mask;
    for (int64_t r = begin; r < end; ++r) {
      const MaskPlace place = mask_place(box_data + 4 * r, side, grid);
      mask.fill(mask_data + r * side * side, side, place, height, width);
      write_canvas(
          mask, height, width, static_cast<float>(threshold), canvas_data + r * height * width);
    }
  });
  return canvases;
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("paste_masks", TORCH_BOX(&ops_cuda::cpu::paste_masks));
}
