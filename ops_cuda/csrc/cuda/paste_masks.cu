// Pasting of ROI masks to bitmaps: one thread per pixel; pixels outside a mask are skipped early.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "launch.h"
#include "pasted_mask.h"

namespace ops_cuda::gpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kTileWidth = 32, kTileHeight = 8;

__global__ void __launch_bounds__(kTileWidth* kTileHeight) paste(
    const float* __restrict__ masks, const float* __restrict__ boxes, int64_t count, int64_t side,
    int64_t height, int64_t width, float threshold, bool grid,
    uint8_t* __restrict__ bitmaps) {
  const int64_t x = static_cast<int64_t>(blockIdx.x) * kTileWidth + threadIdx.x;
  const int64_t y = static_cast<int64_t>(blockIdx.y) * kTileHeight + threadIdx.y;
  if (x >= width || y >= height) return;
  for (int64_t r = blockIdx.z; r < count; r += gridDim.z) {
    const PastedMask mask = pasted_mask(masks, boxes, r, side, grid);
    const bool inside = mask.extent.x.covers(x) && mask.extent.y.covers(y);
    bitmaps[(r * height + y) * width + x] = inside && mask.at(x, y) > threshold;
  }
}

Tensor paste_masks(
    const Tensor& masks_in, const Tensor& boxes_in, int64_t height, int64_t width,
    double threshold, bool grid) {
  const auto guard = on_device_of(masks_in);
  const Tensor masks = torch::stable::contiguous(masks_in);
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  check_masks(masks, boxes);
  const int64_t count = masks.size(0), side = masks.size(1);
  Tensor bitmaps = torch::stable::new_empty(masks, {count, height, width}, ScalarType::Byte);
  if (bitmaps.numel() == 0) return bitmaps;
  const int64_t tile_rows = (height + kTileHeight - 1) / kTileHeight;
  STD_TORCH_CHECK(tile_rows <= 65535, "an image height of ", height, " pixels exceeds a CUDA grid");
  const dim3 blocks(
      static_cast<unsigned int>((width + kTileWidth - 1) / kTileWidth),
      static_cast<unsigned int>(tile_rows),
      static_cast<unsigned int>(count < 65535 ? count : 65535));
  paste<<<blocks, dim3(kTileWidth, kTileHeight), 0, current_stream(masks)>>>(
      masks.const_data_ptr<float>(), boxes.const_data_ptr<float>(), count, side, height, width,
      static_cast<float>(threshold), grid, bitmaps.mutable_data_ptr<uint8_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return bitmaps;
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("paste_masks", TORCH_BOX(&ops_cuda::gpu::paste_masks));
}
