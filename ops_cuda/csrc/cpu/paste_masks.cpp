// Masks from ROI space to bitmaps, only inside each box.
//
// Resizing is bilinear, align_corners=False, in two steps: every mask row is stretched once, then
// pairs of stretched rows are blended. Products are fused as torch's own kernels fuse them on any
// processor with FMA, so that thresholded bits agree with torchvision's.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "simd.h"

namespace ops_cuda {

using torch::stable::Tensor;

// Where an output pixel reads along one axis: low * (1 - fraction) + high * fraction.
struct AxisSamples {
  std::vector<int64_t> low, high;
  std::vector<float> fraction;

  // For output pixels [begin, end) of `length`, read from `source` pixels.
  void fill(int64_t begin, int64_t end, int64_t length, int64_t source) {
    low.resize(end - begin);
    high.resize(end - begin);
    fraction.resize(end - begin);
    const float scale = static_cast<float>(source) / static_cast<float>(length);
    for (int64_t i = begin; i < end; ++i) {
      const float at = std::max(std::fma(scale, static_cast<float>(i) + 0.5f, -0.5f), 0.0f);
      const int64_t pixel = std::min(static_cast<int64_t>(at), source - 1);
      low[i - begin] = pixel;
      high[i - begin] = std::min(pixel + 1, source - 1);
      fraction[i - begin] = std::min(at - static_cast<float>(pixel), 1.0f);
    }
  }
};

MULTIVERSION void blend_and_compare(
    const float* __restrict upper, const float* __restrict lower, float fraction, float threshold,
    int64_t count, uint8_t* __restrict output) {
  for (int64_t i = 0; i < count; ++i) {
    const float value = __builtin_fmaf(lower[i], fraction, upper[i] * (1.0f - fraction));
    output[i] = value > threshold;
  }
}

// A box grown like its padded mask, in whole pixels, both corners inclusive.
struct PixelBox {
  int64_t x1, y1, x2, y2;
};

PixelBox padded_box(const float* box, int64_t mask_side) {
  const float scale = static_cast<float>(static_cast<double>(mask_side + 2) / mask_side);
  const float half_width = (box[2] - box[0]) * 0.5f * scale;
  const float half_height = (box[3] - box[1]) * 0.5f * scale;
  const float x = (box[2] + box[0]) * 0.5f, y = (box[3] + box[1]) * 0.5f;
  const float grown[4] = {x - half_width, y - half_height, x + half_width, y + half_height};
  for (const float corner : grown) {
    if (!std::isfinite(corner)) return {-2, -2, -3, -3};  // without a pixel on the canvas
  }
  // beyond 2^40 a box has no pixel's precision left, and int64 must not overflow
  const auto whole = [](float v) {
    return static_cast<int64_t>(std::clamp(v, -1.0995e12f, 1.0995e12f));
  };
  return {whole(grown[0]), whole(grown[1]), whole(grown[2]), whole(grown[3])};
}

struct PasteBuffers {
  AxisSamples columns, rows;
  std::vector<float> padded, stretched;
};

void paste_one(
    const float* mask, int64_t side, const PixelBox& box, int64_t height, int64_t width,
    float threshold, PasteBuffers& buffers, uint8_t* canvas) {
  const int64_t left = std::max<int64_t>(box.x1, 0), right = std::min(box.x2 + 1, width);
  const int64_t top = std::max<int64_t>(box.y1, 0), bottom = std::min(box.y2 + 1, height);
  if (left >= right || top >= bottom) return;
  const int64_t source = side + 2, count = right - left;
  const int64_t box_width = std::max<int64_t>(box.x2 - box.x1 + 1, 1);
  const int64_t box_height = std::max<int64_t>(box.y2 - box.y1 + 1, 1);
  buffers.columns.fill(left - box.x1, right - box.x1, box_width, source);
  buffers.rows.fill(top - box.y1, bottom - box.y1, box_height, source);

  buffers.padded.assign(source * source, 0.0f);
  for (int64_t i = 0; i < side; ++i) {
    std::copy_n(mask + i * side, side, buffers.padded.data() + (i + 1) * source + 1);
  }
  buffers.stretched.resize(source * count);
  for (int64_t i = 0; i < source; ++i) {
    const float* row = buffers.padded.data() + i * source;
    float* wide = buffers.stretched.data() + i * count;
    for (int64_t j = 0; j < count; ++j) {
      const float fraction = buffers.columns.fraction[j];
      wide[j] = std::fma(
          row[buffers.columns.high[j]], fraction,
          row[buffers.columns.low[j]] * (1.0f - fraction));
    }
  }
  for (int64_t i = 0; i < bottom - top; ++i) {
    blend_and_compare(
        buffers.stretched.data() + buffers.rows.low[i] * count,
        buffers.stretched.data() + buffers.rows.high[i] * count, buffers.rows.fraction[i],
        threshold, count, canvas + (top + i) * width + left);
  }
}

Tensor paste_masks(
    const Tensor& masks_in, const Tensor& boxes_in, int64_t height, int64_t width,
    double threshold) {
  const Tensor masks = torch::stable::contiguous(masks_in);
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  STD_TORCH_CHECK(
      masks.dim() == 3 && masks.size(1) == masks.size(2) && masks.size(1) > 0,
      "masks must be (R, M, M)");
  STD_TORCH_CHECK(
      boxes.dim() == 2 && boxes.size(1) == 4 && boxes.size(0) == masks.size(0),
      "boxes must be (R, 4), one per mask");
  const int64_t count = masks.size(0), side = masks.size(1);
  Tensor canvases = torch::stable::new_zeros(
      masks, {count, height, width}, torch::headeronly::ScalarType::Byte);
  const float* mask_data = masks.const_data_ptr<float>();
  const float* box_data = boxes.const_data_ptr<float>();
  uint8_t* canvas_data = canvases.mutable_data_ptr<uint8_t>();
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    PasteBuffers buffers;
    for (int64_t r = begin; r < end; ++r) {
      paste_one(
          mask_data + r * side * side, side, padded_box(box_data + 4 * r, side), height, width,
          static_cast<float>(threshold), buffers, canvas_data + r * height * width);
    }
  });
  return canvases;
}

}  // namespace ops_cuda

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("paste_masks", TORCH_BOX(&ops_cuda::paste_masks));
}
