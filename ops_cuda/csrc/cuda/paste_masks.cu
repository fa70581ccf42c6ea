// Masks from ROI space to bitmaps: one thread per pixel, tiles outside a box leave at once.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "../mask_geometry.h"
#include "launch.h"

namespace ops_cuda::gpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kTileWidth = 32, kTileHeight = 8;

// A mask padded by one pixel of zeros, without storing the padding.
__device__ inline float padded_pixel(
    const float* __restrict__ mask, int64_t side, int64_t row, int64_t column) {
  const bool border = row == 0 || column == 0 || row > side || column > side;
  return border ? 0.0f : mask[(row - 1) * side + column - 1];
}

__global__ void __launch_bounds__(kTileWidth* kTileHeight) paste(
    const float* __restrict__ masks, const float* __restrict__ boxes, int64_t count, int64_t side,
    int64_t height, int64_t width, float threshold, uint8_t* __restrict__ canvases) {
  const int64_t x = static_cast<int64_t>(blockIdx.x) * kTileWidth + threadIdx.x;
  const int64_t y = static_cast<int64_t>(blockIdx.y) * kTileHeight + threadIdx.y;
  if (x >= width || y >= height) return;
  for (int64_t r = blockIdx.z; r < count; r += gridDim.z) {
    const PixelBox box = padded_box(boxes + 4 * r, side);
    bool set = false;
    if (x >= box.x1 && x <= box.x2 && y >= box.y1 && y <= box.y2) {
      const MaskSample column = mask_sample(x - box.x1, box.width(), side + 2);
      const MaskSample row = mask_sample(y - box.y1, box.height(), side + 2);
      const float* mask = masks + r * side * side;
      const float upper = blend(
          padded_pixel(mask, side, row.low, column.low),
          padded_pixel(mask, side, row.low, column.high), column.fraction);
      const float lower = blend(
          padded_pixel(mask, side, row.high, column.low),
          padded_pixel(mask, side, row.high, column.high), column.fraction);
      set = blend(upper, lower, row.fraction) > threshold;
    }
    canvases[(r * height + y) * width + x] = set;
  }
}

Tensor paste_masks(
    const Tensor& masks_in, const Tensor& boxes_in, int64_t height, int64_t width,
    double threshold) {
  const auto guard = on_device_of(masks_in);
  const Tensor masks = torch::stable::contiguous(masks_in);
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  STD_TORCH_CHECK(
      masks.dim() == 3 && masks.size(1) == masks.size(2) && masks.size(1) > 0,
      "masks must be (R, M, M)");
  STD_TORCH_CHECK(
      boxes.dim() == 2 && boxes.size(1) == 4 && boxes.size(0) == masks.size(0),
      "boxes must be (R, 4), one per mask");
  const int64_t count = masks.size(0), side = masks.size(1);
  Tensor canvases = torch::stable::new_empty(masks, {count, height, width}, ScalarType::Byte);
  if (canvases.numel() == 0) return canvases;
  const int64_t tile_rows = (height + kTileHeight - 1) / kTileHeight;
  STD_TORCH_CHECK(tile_rows <= 65535, "a canvas ", height, " pixels high exceeds a CUDA grid");
  const dim3 grid(
      static_cast<unsigned int>((width + kTileWidth - 1) / kTileWidth),
      static_cast<unsigned int>(tile_rows),
      static_cast<unsigned int>(count < 65535 ? count : 65535));
  paste<<<grid, dim3(kTileWidth, kTileHeight), 0, current_stream(masks)>>>(
      masks.const_data_ptr<float>(), boxes.const_data_ptr<float>(), count, side, height, width,
      static_cast<float>(threshold), canvases.mutable_data_ptr<uint8_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return canvases;
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("paste_masks", TORCH_BOX(&ops_cuda::gpu::paste_masks));
}
