// Rasterization of polygons inside boxes: one block per box, with its cells as bits in shared
// memory. Threads toggle bits where edges cross columns, then compute the parity down every column.
// Masks larger than a tile take several blocks.
//
// Indices out of range are clamped, because checking them on the host would need a device sync.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "../polygon_masks.h"
#include "launch.h"
#include "offset_lists.h"

namespace ops_cuda::gpu {

using torch::stable::Tensor;

constexpr int kTileSide = 128;
constexpr int kTileWords = kTileSide / 32 * kTileSide;
constexpr int kRasterThreads = kTileSide;  // one per column of a tile

struct PolygonTable {
  const float* vertices;
  FlatLists polygons, objects;
};

struct Tile {
  int32_t first_row, first_column, end_column;
};

__device__ inline void toggle_edge(
    const float* begin, const float* end, const CellFrame& frame, const Tile& tile,
    uint32_t* toggles) {
  cross_columns(
      grid_line((begin[0] - frame.x1) * frame.cells_per_x),
      grid_line((begin[1] - frame.y1) * frame.cells_per_y),
      grid_line((end[0] - frame.x1) * frame.cells_per_x),
      grid_line((end[1] - frame.y1) * frame.cells_per_y), tile.first_column, tile.end_column,
      [&](int32_t column, int32_t row) {
        const int32_t inside = row > tile.first_row ? row - tile.first_row : 0;
        if (inside >= kTileSide) return;
        const int32_t word = inside / 32 * kTileSide + column - tile.first_column;
        atomicXor(&toggles[word], 1u << (inside % 32));
      });
}

// Adds the cells of a polygon in one column, given as toggles, to those of its object.
__device__ inline void add_polygon_column(const uint32_t* toggles, int column, uint32_t* filled) {
  uint32_t above = 0;
  for (int word = column; word < kTileWords; word += kTileSide) {
    const uint32_t inside = running_parity(toggles[word]) ^ above;
    filled[word] |= inside;
    above = -(inside >> 31);
  }
}

__global__ void __launch_bounds__(kRasterThreads) rasterize(
    PolygonTable table, const int64_t* __restrict__ object_indices, const float* __restrict__ boxes,
    int64_t count, int64_t side, int64_t tiles, float* __restrict__ masks) {
  __shared__ uint32_t toggles[kTileWords], filled[kTileWords];
  __shared__ int non_finite;
  const int thread = threadIdx.x;
  for (int64_t i = blockIdx.x; i < count * tiles * tiles; i += gridDim.x) {
    const int64_t r = i / (tiles * tiles);
    const int64_t top = i / tiles % tiles * kTileSide, left = i % tiles * kTileSide;
    const int64_t rows = minimum(side - top, kTileSide), columns = minimum(side - left, kTileSide);
    const Tile tile{
        static_cast<int32_t>(top), static_cast<int32_t>(left),
        static_cast<int32_t>(left + columns)};
    const CellFrame frame = cell_frame(boxes + 4 * r, side);
    const Range polygons = frame.finite ? table.objects.range(object_indices[r]) : Range{0, 0};
    for (int word = thread; word < kTileWords; word += kRasterThreads) filled[word] = 0;
    for (int64_t p = polygons.begin; p < polygons.end; ++p) {
      const Range vertices = table.polygons.range(p);
      for (int word = thread; word < kTileWords; word += kRasterThreads) toggles[word] = 0;
      if (thread == 0) non_finite = 0;
      __syncthreads();
      for (int64_t v = vertices.begin + thread; v < vertices.end; v += kRasterThreads) {
        const float* begin = table.vertices + 2 * v;
        const float* end = table.vertices + 2 * (v + 1 < vertices.end ? v + 1 : vertices.begin);
        if (!is_finite(begin[0]) || !is_finite(begin[1])) atomicAdd(&non_finite, 1);
        toggle_edge(begin, end, frame, tile, toggles);
      }
      __syncthreads();
      if (non_finite == 0) add_polygon_column(toggles, thread, filled);
      __syncthreads();
    }
    __syncthreads();
    for (int64_t cell = thread; cell < rows * columns; cell += kRasterThreads) {
      const int64_t row = cell / columns, column = cell % columns;
      const uint32_t bits = filled[row / 32 * kTileSide + column];
      masks[(r * side + top + row) * side + left + column] =
          static_cast<float>(bits >> (row % 32) & 1u);
    }
    __syncthreads();
  }
}

Tensor rasterize_polygons(
    const Tensor& vertices_in, const Tensor& polygon_offsets_in, const Tensor& object_offsets_in,
    const Tensor& object_indices_in, const Tensor& boxes_in, int64_t side) {
  const auto guard = on_device_of(boxes_in);
  const Tensor vertices = torch::stable::contiguous(vertices_in);
  const Tensor polygon_offsets = torch::stable::contiguous(polygon_offsets_in);
  const Tensor object_offsets = torch::stable::contiguous(object_offsets_in);
  const Tensor object_indices = torch::stable::contiguous(object_indices_in);
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  const int64_t count = boxes.size(0);
  check_polygons(vertices, polygon_offsets, object_offsets, object_indices, boxes);
  Tensor masks = torch::stable::new_empty(boxes, {count, side, side});
  if (masks.numel() == 0) return masks;
  const FlatLists polygons = flat_lists(polygon_offsets, vertices.size(0));
  const PolygonTable table{
      vertices.const_data_ptr<float>(), polygons, flat_lists(object_offsets, polygons.count)};
  const int64_t tiles = (side + kTileSide - 1) / kTileSide;
  rasterize<<<
      blocks_for(count * tiles * tiles, 1), kRasterThreads, 0, current_stream(boxes)>>>(
      table, object_indices.const_data_ptr<int64_t>(), boxes.const_data_ptr<float>(), count, side,
      tiles, masks.mutable_data_ptr<float>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return masks;
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("rasterize_polygons", TORCH_BOX(&ops_cuda::gpu::rasterize_polygons));
}
