// Rasterization of polygons inside boxes: one bit per cell, 32 rows of a column in each word.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../polygon_masks.h"
#include "index_checks.h"
#include "simd.h"

namespace ops_cuda::cpu {

// Computes the grid lines of vertices. Returns false if one of them is not finite.
MULTIVERSION bool snap_vertices(
    const float* __restrict vertices, int64_t count, const CellFrame& frame, int32_t* __restrict x,
    int32_t* __restrict y) {
  int32_t non_finite = 0;
  for (int64_t v = 0; v < count; ++v) {
    non_finite |= !(is_finite(vertices[2 * v]) & is_finite(vertices[2 * v + 1]));
    x[v] = grid_line((vertices[2 * v] - frame.x1) * frame.cells_per_x);
    y[v] = grid_line((vertices[2 * v + 1] - frame.y1) * frame.cells_per_y);
  }
  return non_finite == 0;
}

// Adds the cells of one polygon, given as toggles, to those of its object.
MULTIVERSION void add_polygon(
    const uint32_t* __restrict toggles, int64_t words, int64_t side, uint32_t* __restrict above,
    uint32_t* __restrict filled) {
  std::fill_n(above, side, 0u);
  for (int64_t w = 0; w < words; ++w) {
    for (int64_t c = 0; c < side; ++c) {
      const uint32_t inside = running_parity(toggles[w * side + c]) ^ above[c];
      filled[w * side + c] |= inside;
      above[c] = -(inside >> 31);
    }
  }
}

MULTIVERSION void write_cells(
    const uint32_t* __restrict bits, int64_t side, float* __restrict mask) {
  for (int64_t i = 0; i < side; ++i) {
    const uint32_t* row = bits + i / 32 * side;
    for (int64_t j = 0; j < side; ++j) {
      mask[i * side + j] = static_cast<float>(static_cast<int32_t>(row[j] >> (i % 32) & 1u));
    }
  }
}

struct Polygons {
  const float* vertices;
  const int64_t* polygon_offsets;
  const int64_t* object_offsets;
};

struct Canvas {
  int64_t side, words;
  std::vector<uint32_t> toggles, filled, above;
  std::vector<int32_t> x, y;

  explicit Canvas(int64_t side)
      : side(side), words((side + 31) / 32), toggles(words * side), filled(words * side),
        above(side) {}
};

void rasterize_polygon(
    const float* vertices, int64_t count, const CellFrame& frame, Canvas& canvas) {
  const int64_t side = canvas.side;
  canvas.x.resize(count);
  canvas.y.resize(count);
  const int32_t *x = canvas.x.data(), *y = canvas.y.data();
  if (!snap_vertices(vertices, count, frame, canvas.x.data(), canvas.y.data())) return;
  uint32_t* toggles = canvas.toggles.data();
  std::fill(canvas.toggles.begin(), canvas.toggles.end(), 0u);
  const auto toggle = [=](int32_t column, int32_t row) {
    if (row < side) toggles[row / 32 * side + column] ^= 1u << (row % 32);
  };
  for (int64_t v = 0; v < count; ++v) {
    const int64_t next = v + 1 < count ? v + 1 : 0;
    cross_columns(x[v], y[v], x[next], y[next], 0, static_cast<int32_t>(side), toggle);
  }
  add_polygon(toggles, canvas.words, side, canvas.above.data(), canvas.filled.data());
}

void rasterize_object(
    const Polygons& polygons, int64_t object, const float* box, Canvas& canvas, float* mask) {
  const CellFrame frame = cell_frame(box, canvas.side);
  std::fill(canvas.filled.begin(), canvas.filled.end(), 0u);
  const int64_t first = polygons.object_offsets[object];
  const int64_t last = frame.finite ? polygons.object_offsets[object + 1] : first;
  for (int64_t p = first; p < last; ++p) {
    const int64_t begin = polygons.polygon_offsets[p], end = polygons.polygon_offsets[p + 1];
    rasterize_polygon(polygons.vertices + 2 * begin, end - begin, frame, canvas);
  }
  write_cells(canvas.filled.data(), canvas.side, mask);
}

Tensor rasterize_polygons(
    const Tensor& vertices_in, const Tensor& polygon_offsets_in, const Tensor& object_offsets_in,
    const Tensor& object_indices_in, const Tensor& boxes_in, int64_t side) {
  const Tensor vertices = torch::stable::contiguous(vertices_in);
  const Tensor polygon_offsets = torch::stable::contiguous(polygon_offsets_in);
  const Tensor object_offsets = torch::stable::contiguous(object_offsets_in);
  const Tensor object_indices = torch::stable::contiguous(object_indices_in);
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  check_polygons(vertices, polygon_offsets, object_offsets, object_indices, boxes);
  check_offsets(polygon_offsets, vertices.size(0), "polygon_offsets");
  check_offsets(object_offsets, polygon_offsets.numel() - 1, "object_offsets");
  check_object_indices(object_indices, object_offsets.numel() - 1);

  const int64_t count = boxes.size(0);
  Tensor masks = torch::stable::new_empty(boxes, {count, side, side});
  const Polygons polygons{
      vertices.const_data_ptr<float>(), polygon_offsets.const_data_ptr<int64_t>(),
      object_offsets.const_data_ptr<int64_t>()};
  const int64_t* indices = object_indices.const_data_ptr<int64_t>();
  const float* box_data = boxes.const_data_ptr<float>();
  float* mask_data = masks.mutable_data_ptr<float>();
  // a mask takes about a microsecond: fewer are not worth waking up a thread
  torch::stable::parallel_for(0, count, 256, [&](int64_t begin, int64_t end) {
    Canvas canvas(side);
    for (int64_t r = begin; r < end; ++r) {
      rasterize_object(
          polygons, indices[r], box_data + 4 * r, canvas, mask_data + r * side * side);
    }
  });
  return masks;
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("rasterize_polygons", TORCH_BOX(&ops_cuda::cpu::rasterize_polygons));
}
