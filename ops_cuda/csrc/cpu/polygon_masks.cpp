// Polygons to masks inside boxes: even-odd crossings of the ray to the right of each sample.
//
// The arithmetic is that of the pure-torch twin, operation by operation: equal bits.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "simd.h"

namespace ops_cuda::cpu {

using torch::stable::Tensor;

// Toggles parity (side, side) for one edge.
MULTIVERSION void toggle_right_of_edge(
    const float* __restrict begin, const float* __restrict end, const float* __restrict columns,
    const float* __restrict rows, int64_t side, uint8_t* __restrict parity) {
  const float x1 = begin[0], y1 = begin[1], x2 = end[0], y2 = end[1];
  for (int64_t i = 0; i < side; ++i) {
    if ((y1 <= rows[i]) == (y2 <= rows[i])) continue;
    const float crossing = x1 + (rows[i] - y1) / (y2 - y1) * (x2 - x1);
    uint8_t* row = parity + i * side;
    for (int64_t j = 0; j < side; ++j) row[j] ^= columns[j] < crossing;
  }
}

struct Polygons {
  const float* vertices;
  const int64_t* polygon_offsets;
  const int64_t* object_offsets;
};

void rasterize_object(
    const Polygons& polygons, int64_t object, const float* box, int64_t side,
    std::vector<float>& steps, std::vector<uint8_t>& parity, float* mask) {
  float* columns = steps.data();
  float* rows = columns + side;
  const float column_step = (box[2] - box[0]) / side;
  const float row_step = (box[3] - box[1]) / side;
  for (int64_t i = 0; i < side; ++i) {
    columns[i] = box[0] + (i + 0.5f) * column_step;
    rows[i] = box[1] + (i + 0.5f) * row_step;
  }
  for (int64_t p = polygons.object_offsets[object]; p < polygons.object_offsets[object + 1]; ++p) {
    const int64_t first = polygons.polygon_offsets[p], last = polygons.polygon_offsets[p + 1];
    std::fill(parity.begin(), parity.end(), 0);
    for (int64_t v = first; v < last; ++v) {
      const int64_t next = v + 1 < last ? v + 1 : first;
      toggle_right_of_edge(
          polygons.vertices + 2 * v, polygons.vertices + 2 * next, columns, rows, side,
          parity.data());
    }
    for (int64_t i = 0; i < side * side; ++i) mask[i] = parity[i] ? 1.0f : mask[i];
  }
}

void check_offsets(const Tensor& offsets, int64_t end, const char* name) {
  const int64_t* data = offsets.const_data_ptr<int64_t>();
  const int64_t last = offsets.numel() - 1;
  STD_TORCH_CHECK(last >= 0 && data[0] == 0, name, " must start with 0");
  for (int64_t i = 0; i < last; ++i) {
    STD_TORCH_CHECK(data[i] <= data[i + 1], name, " must ascend; entry ", i + 1, " does not");
  }
  STD_TORCH_CHECK(data[last] <= end, name, " reaches ", data[last], " of only ", end);
}

Tensor rasterize_polygons(
    const Tensor& vertices_in, const Tensor& polygon_offsets_in, const Tensor& object_offsets_in,
    const Tensor& objects_in, const Tensor& boxes_in, int64_t side) {
  const Tensor vertices = torch::stable::contiguous(vertices_in);
  const Tensor polygon_offsets = torch::stable::contiguous(polygon_offsets_in);
  const Tensor object_offsets = torch::stable::contiguous(object_offsets_in);
  const Tensor objects = torch::stable::contiguous(objects_in);
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "boxes must be (R, 4)");
  STD_TORCH_CHECK(vertices.dim() == 2 && vertices.size(1) == 2, "vertices must be (V, 2)");
  check_offsets(polygon_offsets, vertices.size(0), "polygon_offsets");
  check_offsets(object_offsets, polygon_offsets.numel() - 1, "object_offsets");
  const int64_t count = boxes.size(0), known = object_offsets.numel() - 1;
  STD_TORCH_CHECK(objects.numel() == count, "objects must be (R,), one per box");
  const int64_t* wanted = objects.const_data_ptr<int64_t>();
  for (int64_t r = 0; r < count; ++r) {
    STD_TORCH_CHECK(
        wanted[r] >= 0 && wanted[r] < known, "objects[", r, "] is ", wanted[r], " of only ", known);
  }

  Tensor masks = torch::stable::new_zeros(boxes, {count, side, side});
  const Polygons polygons{
      vertices.const_data_ptr<float>(), polygon_offsets.const_data_ptr<int64_t>(),
      object_offsets.const_data_ptr<int64_t>()};
  const float* box_data = boxes.const_data_ptr<float>();
  float* mask_data = masks.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, count, 32, [&](int64_t begin, int64_t end) {
    std::vector<float> steps(2 * side);
    std::vector<uint8_t> parity(side * side);
    for (int64_t r = begin; r < end; ++r) {
      rasterize_object(
          polygons, wanted[r], box_data + 4 * r, side, steps, parity,
          mask_data + r * side * side);
    }
  });
  return masks;
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("rasterize_polygons", TORCH_BOX(&ops_cuda::cpu::rasterize_polygons));
}
