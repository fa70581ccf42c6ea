// Masks from ROI space to bitmaps, only inside each box: every mask row is stretched once, then
// pairs of stretched rows are blended.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../mask_geometry.h"
#include "simd.h"

namespace ops_cuda::cpu {

using torch::stable::Tensor;

// Where a run of output pixels reads along one axis.
struct AxisSamples {
  std::vector<MaskSample> samples;

  void fill(int64_t begin, int64_t end, int64_t length, int64_t source) {
    samples.resize(end - begin);
    for (int64_t i = begin; i < end; ++i) samples[i - begin] = mask_sample(i, length, source);
  }
};

MULTIVERSION void blend_and_compare(
    const float* __restrict upper, const float* __restrict lower, float fraction, float threshold,
    int64_t count, uint8_t* __restrict output) {
  for (int64_t i = 0; i < count; ++i) {
    output[i] = blend(upper[i], lower[i], fraction) > threshold;
  }
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
  buffers.columns.fill(left - box.x1, right - box.x1, box.width(), source);
  buffers.rows.fill(top - box.y1, bottom - box.y1, box.height(), source);

  buffers.padded.assign(source * source, 0.0f);
  for (int64_t i = 0; i < side; ++i) {
    std::copy_n(mask + i * side, side, buffers.padded.data() + (i + 1) * source + 1);
  }
  buffers.stretched.resize(source * count);
  for (int64_t i = 0; i < source; ++i) {
    const float* row = buffers.padded.data() + i * source;
    float* wide = buffers.stretched.data() + i * count;
    for (int64_t j = 0; j < count; ++j) {
      const MaskSample& sample = buffers.columns.samples[j];
      wide[j] = blend(row[sample.low], row[sample.high], sample.fraction);
    }
  }
  for (int64_t i = 0; i < bottom - top; ++i) {
    const MaskSample& sample = buffers.rows.samples[i];
    blend_and_compare(
        buffers.stretched.data() + sample.low * count,
        buffers.stretched.data() + sample.high * count, sample.fraction, threshold, count,
        canvas + (top + i) * width + left);
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

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("paste_masks", TORCH_BOX(&ops_cuda::cpu::paste_masks));
}
