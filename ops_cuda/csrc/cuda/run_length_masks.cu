// Resampling of run-length masks inside boxes: one thread per cell sums the spans of mask in it,
// column by column of the canvas, finding the first run by binary search.
//
// Indices out of range are clamped, because checking them on the host would need a device sync.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "../run_length_masks.h"
#include "launch.h"
#include "offset_lists.h"

namespace ops_cuda::gpu {

using torch::stable::Tensor;

constexpr int kCellThreads = 256;

struct RunTable {
  const int64_t* ends;
  FlatLists objects;
  const int64_t* heights;

  __device__ RunMask mask(int64_t object) const {
    const Range runs = objects.range(object);
    if (runs.begin == runs.end) return {ends, 0, 1};
    return {ends + runs.begin, runs.end - runs.begin, clamp(heights[object], 1, kMaxCanvas)};
  }
};

__device__ inline float resample_cell(
    const RunMask& mask, const CellAxis& x_axis, const CellAxis& y_axis, int64_t row,
    int64_t column) {
  const int64_t left = x_axis.edge(column), right = x_axis.edge(column + 1);
  const int64_t upper = y_axis.edge(row), lower = y_axis.edge(row + 1);
  const int64_t first_row = larger(units_to_pixels(upper), 0);
  if (lower <= 0 || first_row >= mask.height) return 0.0f;
  const int64_t begin = larger(units_to_pixels(left), 0);
  const int64_t end = smaller(units_to_pixels(right + kPixel - 1), mask.columns());
  int64_t covered = 0;
  for (int64_t c = begin; c < end; ++c) {
    const int64_t run = mask.run_at(c * mask.height + first_row);
    const int64_t weight = smaller(right, (c + 1) * kPixel) - larger(left, c * kPixel);
    visit_spans(mask, c, run, upper, lower, [&](int64_t from, int64_t to) {
      covered += weight * (to - from);
    });
  }
  return is_at_least_half(covered, (right - left) * (lower - upper));
}

__global__ void __launch_bounds__(kCellThreads) rasterize_runs(
    RunTable table, const int64_t* __restrict__ object_indices, const float* __restrict__ boxes,
    int64_t count, int64_t side, float* __restrict__ masks) {
  const int64_t cells = side * side, threads = static_cast<int64_t>(gridDim.x) * kCellThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kCellThreads + threadIdx.x;
       i < count * cells; i += threads) {
    const int64_t r = i / cells;
    const float* box = boxes + 4 * r;
    float value = 0.0f;
    if (is_finite_box(box)) {
      const CellAxis x_axis(box[0], box[2], side), y_axis(box[1], box[3], side);
      const int64_t row = y_axis.mask_index(i % cells / side), column = x_axis.mask_index(i % side);
      value = resample_cell(table.mask(object_indices[r]), x_axis, y_axis, row, column);
    }
    masks[i] = value;
  }
}

Tensor rasterize_rle(
    const Tensor& run_ends_in, const Tensor& run_offsets_in, const Tensor& heights_in,
    const Tensor& object_indices_in, const Tensor& boxes_in, int64_t side) {
  const auto guard = on_device_of(boxes_in);
  const Tensor run_ends = torch::stable::contiguous(run_ends_in);
  const Tensor run_offsets = torch::stable::contiguous(run_offsets_in);
  const Tensor heights = torch::stable::contiguous(heights_in);
  const Tensor object_indices = torch::stable::contiguous(object_indices_in);
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  const int64_t count = boxes.size(0);
  check_run_masks(run_offsets, heights, object_indices, boxes);
  Tensor masks = torch::stable::new_empty(boxes, {count, side, side});
  if (masks.numel() == 0) return masks;
  const RunTable table{
      run_ends.const_data_ptr<int64_t>(), flat_lists(run_offsets, run_ends.numel()),
      heights.const_data_ptr<int64_t>()};
  rasterize_runs<<<
      blocks_for(count * side * side, kCellThreads), kCellThreads, 0, current_stream(boxes)>>>(
      table, object_indices.const_data_ptr<int64_t>(), boxes.const_data_ptr<float>(), count, side,
      masks.mutable_data_ptr<float>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return masks;
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("rasterize_rle", TORCH_BOX(&ops_cuda::gpu::rasterize_rle));
}
