// Encoding of ROI masks to COCO's run lengths, without a bitmap: one thread per column of each mask
// visits its pixels twice, once to count the edges and once to write them.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdint>
#include <optional>
#include <tuple>

#include "launch.h"
#include "pasted_mask.h"

namespace ops_cuda::gpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::detail::from;
using torch::stable::detail::to;

constexpr int kEncodeThreads = 128;

struct MaskTable {
  const float* masks;
  const float* boxes;
  int64_t count, side, height, width;
  float threshold;
  bool grid;
};

// Calls emit(y) for each pixel of column x of mask r that differs from the previous one; pixels are
// in column order, and a 0 precedes the first.
template <typename Emit>
__device__ void for_each_edge(const MaskTable& table, int64_t r, int64_t x, Emit emit) {
  const PastedMask mask = pasted_mask(table.masks, table.boxes, r, table.side, table.grid);
  const MaskAxis &columns = mask.extent.x, &rows = mask.extent.y;
  const int64_t left = columns.first > 0 ? columns.first : 0;
  const int64_t top = rows.first > 0 ? rows.first : 0;
  const int64_t right = columns.last + 1 < table.width ? columns.last + 1 : table.width;
  const int64_t bottom = rows.last + 1 < table.height ? rows.last + 1 : table.height;
  // the column to the right of the mask may begin with the end of a run
  if (left >= right || top >= bottom || x < left || x > right) return;
  bool previous = false;
  if (bottom == table.height && x > left) {
    previous = mask.at(x - 1, bottom - 1) > table.threshold;
  }
  if (previous && (top > 0 || x == right)) {
    emit(0);
    previous = false;
  }
  if (x == right) return;

  const MaskSample column = mask.column_at(x);
  int64_t low = -1;
  float upper = 0.0f, lower = 0.0f;
  for (int64_t y = top; y < bottom; ++y) {
    const MaskSample row = mask.row_at(y);
    if (row.low != low) {
      upper = mask.stretched(row.low, column);
      lower = mask.stretched(row.high, column);
      low = row.low;
    }
    const bool set = blend(upper, lower, row.fraction) > table.threshold;
    if (set != previous) emit(y);
    previous = set;
  }
  if (previous && bottom < table.height) emit(bottom);
}

// Counts the edges in each column of each mask, and 1 for the end of the image.
__global__ void __launch_bounds__(kEncodeThreads)
    count_edges(const MaskTable table, int32_t* __restrict__ edge_counts) {
  const int64_t slots = table.width + 1, total = table.count * slots;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kEncodeThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kEncodeThreads + threadIdx.x; i < total;
       i += step) {
    const int64_t r = i / slots, x = i % slots;
    int32_t edges = x == table.width ? 1 : 0;
    if (x < table.width) for_each_edge(table, r, x, [&](int64_t) { ++edges; });
    edge_counts[i] = edges;
  }
}

// Writes the positions of the edges in the image, followed by the number of pixels for each mask.
__global__ void __launch_bounds__(kEncodeThreads) write_edges(
    const MaskTable table, const int64_t* __restrict__ ends, int64_t* __restrict__ positions,
    int64_t* __restrict__ offsets) {
  const int64_t slots = table.width + 1, total = table.count * slots;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kEncodeThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kEncodeThreads + threadIdx.x; i < total;
       i += step) {
    const int64_t r = i / slots, x = i % slots;
    int64_t* next = positions + (i == 0 ? 0 : ends[i - 1]);
    if (x == table.width) {
      *next = table.height * table.width;
      offsets[r + 1] = ends[i];
      if (r == 0) offsets[0] = 0;
    } else {
      for_each_edge(table, r, x, [&](int64_t y) { *next++ = x * table.height + y; });
    }
  }
}

__global__ void __launch_bounds__(kEncodeThreads) edges_to_runs(
    const int64_t* __restrict__ positions, int64_t count, int64_t pixels,
    int64_t* __restrict__ runs) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kEncodeThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kEncodeThreads + threadIdx.x; i < count;
       i += step) {
    // after the end of the image the next mask begins
    const int64_t previous = i == 0 || positions[i - 1] == pixels ? 0 : positions[i - 1];
    runs[i] = positions[i] - previous;
  }
}

// Calls aten::cumsum, which has no C++ wrapper in the stable ABI.
Tensor cumulative_sum(const Tensor& numbers) {
  std::array<StableIValue, 3> stack{
      from(numbers), from(int64_t(0)), from(std::nullopt)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::cumsum", "", stack.data(), TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

std::tuple<Tensor, Tensor> encode_roi_masks_rle(
    const Tensor& masks_in, const Tensor& boxes_in, int64_t height, int64_t width,
    double threshold, bool grid) {
  const auto guard = on_device_of(masks_in);
  const Tensor masks = torch::stable::contiguous(masks_in);
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  check_masks(masks, boxes);
  const int64_t count = masks.size(0), slots = count * (width + 1);
  if (count == 0) {
    return {
        torch::stable::new_empty(masks, {0}, ScalarType::Long),
        torch::stable::new_zeros(masks, {1}, ScalarType::Long)};
  }
  const MaskTable table{
      masks.const_data_ptr<float>(), boxes.const_data_ptr<float>(), count, masks.size(1), height,
      width, static_cast<float>(threshold), grid};
  const cudaStream_t stream = current_stream(masks);
  const unsigned int blocks = blocks_for(slots, kEncodeThreads);
  Tensor edge_counts = torch::stable::new_empty(masks, {slots}, ScalarType::Int);
  count_edges<<<blocks, kEncodeThreads, 0, stream>>>(
      table, edge_counts.mutable_data_ptr<int32_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();

  const Tensor ends = cumulative_sum(edge_counts);
  const int64_t* end_data = ends.const_data_ptr<int64_t>();
  int64_t total = 0;
  STD_CUDA_CHECK(cudaMemcpyAsync(
      &total, end_data + slots - 1, sizeof(total), cudaMemcpyDeviceToHost, stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(stream));

  Tensor positions = torch::stable::new_empty(masks, {total}, ScalarType::Long);
  Tensor offsets = torch::stable::new_empty(masks, {count + 1}, ScalarType::Long);
  write_edges<<<blocks, kEncodeThreads, 0, stream>>>(
      table, end_data, positions.mutable_data_ptr<int64_t>(), offsets.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  Tensor runs = torch::stable::new_empty(masks, {total}, ScalarType::Long);
  edges_to_runs<<<blocks_for(total, kEncodeThreads), kEncodeThreads, 0, stream>>>(
      positions.const_data_ptr<int64_t>(), total, height * width,
      runs.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {runs, offsets};
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("encode_roi_masks_rle", TORCH_BOX(&ops_cuda::gpu::encode_roi_masks_rle));
}
