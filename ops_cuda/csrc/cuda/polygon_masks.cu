// Polygons to masks inside boxes: one block per box, one sample per thread at a time.
//
// Indices out of range are clamped, never followed: the host does not wait to look at them.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "launch.h"

namespace ops_cuda::gpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kRasterThreads = 256;

struct PolygonTable {
  const float* vertices;
  const int64_t* polygon_offsets;
  const int64_t* object_offsets;
  int64_t vertex_count, polygon_count, object_count;
};

__device__ inline int64_t clamped(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

// Whether (x, y) lies inside the polygon with vertices [first, last), even-odd rule.
__device__ inline bool inside(
    const float* __restrict__ vertices, int64_t first, int64_t last, float x, float y) {
  if (first >= last) return false;
  bool odd = false;
  float x1 = vertices[2 * (last - 1)], y1 = vertices[2 * (last - 1) + 1];
  for (int64_t v = first; v < last; ++v) {
    const float x2 = vertices[2 * v], y2 = vertices[2 * v + 1];
    if ((y1 <= y) != (y2 <= y)) odd ^= x < x1 + (y - y1) / (y2 - y1) * (x2 - x1);
    x1 = x2;
    y1 = y2;
  }
  return odd;
}

__global__ void __launch_bounds__(kRasterThreads) rasterize(
    PolygonTable table, const int64_t* __restrict__ objects, const float* __restrict__ boxes,
    int64_t count, int64_t side, float* __restrict__ masks) {
  for (int64_t r = blockIdx.x; r < count; r += gridDim.x) {
    const float* box = boxes + 4 * r;
    const float column_step = (box[2] - box[0]) / static_cast<float>(side);
    const float row_step = (box[3] - box[1]) / static_cast<float>(side);
    const int64_t object = objects[r];
    int64_t first = 0, last = 0;
    if (object >= 0 && object < table.object_count) {
      first = clamped(table.object_offsets[object], 0, table.polygon_count);
      last = clamped(table.object_offsets[object + 1], first, table.polygon_count);
    }
    for (int64_t i = threadIdx.x; i < side * side; i += kRasterThreads) {
      const float x = box[0] + (static_cast<float>(i % side) + 0.5f) * column_step;
      const float y = box[1] + (static_cast<float>(i / side) + 0.5f) * row_step;
      bool set = false;
      for (int64_t p = first; p < last && !set; ++p) {
        const int64_t begin = clamped(table.polygon_offsets[p], 0, table.vertex_count);
        const int64_t end = clamped(table.polygon_offsets[p + 1], begin, table.vertex_count);
        set = inside(table.vertices, begin, end, x, y);
      }
      masks[r * side * side + i] = set ? 1.0f : 0.0f;
    }
  }
}

Tensor rasterize_polygons(
    const Tensor& vertices_in, const Tensor& polygon_offsets_in, const Tensor& object_offsets_in,
    const Tensor& objects_in, const Tensor& boxes_in, int64_t side) {
  const auto guard = on_device_of(boxes_in);
  const Tensor vertices = torch::stable::contiguous(vertices_in);
  const Tensor polygon_offsets = torch::stable::contiguous(polygon_offsets_in);
  const Tensor object_offsets = torch::stable::contiguous(object_offsets_in);
  const Tensor objects = torch::stable::contiguous(objects_in);
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  const int64_t count = boxes.size(0);
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "boxes must be (R, 4)");
  STD_TORCH_CHECK(vertices.dim() == 2 && vertices.size(1) == 2, "vertices must be (V, 2)");
  STD_TORCH_CHECK(objects.numel() == count, "objects must be (R,), one per box");
  STD_TORCH_CHECK(
      polygon_offsets.numel() > 0 && object_offsets.numel() > 0, "offsets must start with 0");
  Tensor masks = torch::stable::new_empty(boxes, {count, side, side});
  if (masks.numel() == 0) return masks;
  const PolygonTable table{
      vertices.const_data_ptr<float>(),
      polygon_offsets.const_data_ptr<int64_t>(),
      object_offsets.const_data_ptr<int64_t>(),
      vertices.size(0),
      polygon_offsets.numel() - 1,
      object_offsets.numel() - 1};
  rasterize<<<blocks_for(count, 1), kRasterThreads, 0, current_stream(boxes)>>>(
      table, objects.const_data_ptr<int64_t>(), boxes.const_data_ptr<float>(), count, side,
      masks.mutable_data_ptr<float>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return masks;
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("rasterize_polygons", TORCH_BOX(&ops_cuda::gpu::rasterize_polygons));
}
