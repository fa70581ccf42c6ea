// Rasterization of polygons inside boxes: argument checks, and where edges cross the columns of a
// mask by the rule of pycocotools, shared by CPU and CUDA.
//
// Outlines lie on a grid of fifths of a cell. An edge is a chain of grid points, one for each step
// along its longer axis. Where the chain steps between grid columns 5 c + 2 and 5 c + 3, it crosses
// the middle of mask column c: all cells of the column from there down change sides.
// pycocotools visits every point of the chain; here the step of each column is computed directly.
// Both agree in every bit while vertices lie within a million cells of the box: farther away
// pycocotools runs into the rounding of doubles, then into overflow, which is excluded here.

#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

#include "portable.h"

namespace ops_cuda {

using torch::stable::Tensor;

inline void check_polygons(
    const Tensor& vertices, const Tensor& polygon_offsets, const Tensor& object_offsets,
    const Tensor& object_indices, const Tensor& boxes) {
  STD_TORCH_CHECK(vertices.dim() == 2 && vertices.size(1) == 2, "vertices must be (N, 2)");
  STD_TORCH_CHECK(polygon_offsets.numel() > 0, "polygon_offsets must start with 0");
  STD_TORCH_CHECK(object_offsets.numel() > 0, "object_offsets must start with 0");
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "boxes must be (R, 4)");
  STD_TORCH_CHECK(
      object_indices.numel() == boxes.size(0), "object_indices must be (R,), one per box");
}

// Maps image coordinates to cells of a box. A side shorter than a tenth of a pixel, or negative,
// counts as a tenth: detectron2's rule.
struct CellFrame {
  double x1, y1, cells_per_x, cells_per_y;
  bool finite;
};

SHARED_INLINE bool is_finite(float value) { return value - value == 0.0f; }

SHARED_INLINE CellFrame cell_frame(const float* box, int64_t side) {
  const double x1 = box[0], y1 = box[1];
  const double width = box[2] - x1, height = box[3] - y1, min_side = 0.1;
  return {
      x1, y1, static_cast<double>(side) / (width > min_side ? width : min_side),
      static_cast<double>(side) / (height > min_side ? height : min_side),
      is_finite(box[0]) && is_finite(box[1]) && is_finite(box[2]) && is_finite(box[3])};
}

// The grid line nearest to a position in cells, rounded as in pycocotools' C: toward zero after
// adding a half. Differences of any two grid lines fit in an int.
SHARED_INLINE int32_t grid_line(double cells) {
  const double limit = (1 << 30) - 1;
  const double fifths = 5.0 * cells + 0.5;
  const double low = fifths > -limit ? fifths : -limit;  // NaN becomes a number here
  return static_cast<int32_t>(low < limit ? low : limit);
}

SHARED_INLINE int32_t row_of_grid_line(int32_t y) { return y < 3 ? 0 : (y + 2) / 5; }

// Calls toggle(column, row) for each column in [first_column, end_column) whose middle is crossed
// by the edge between two grid points; rows may be below the mask.
template <typename Toggle>
SHARED_INLINE void cross_columns(
    int32_t x1, int32_t y1, int32_t x2, int32_t y2, int32_t first_column, int32_t end_column,
    Toggle toggle) {
  const bool rightward = x1 <= x2, downward = y1 <= y2;
  const int32_t left = rightward ? x1 : x2, right = rightward ? x2 : x1;
  const int32_t first = left < 3 ? 0 : (left + 2) / 5, last = right < 3 ? -1 : (right - 3) / 5;
  const int32_t begin = first > first_column ? first : first_column;
  const int32_t end = last < end_column ? last + 1 : end_column;
  if (begin >= end) return;
  const int32_t width = right - left, height = downward ? y2 - y1 : y1 - y2;
  if (width >= height) {
    const int32_t start = rightward ? y1 : y2, stop = rightward ? y2 : y1;
    const double slope = static_cast<double>(stop - start) / width;
    const int32_t upper = slope >= 0 ? 2 : 3;  // of the two points around the middle
    for (int32_t c = begin; c < end; ++c) {
      const int32_t steps = 5 * c + upper - left;
      toggle(c, row_of_grid_line(static_cast<int32_t>(start + slope * steps + 0.5)));
    }
  } else {
    const int32_t start = downward ? x1 : x2, stop = downward ? x2 : x1;
    const int32_t top = downward ? y1 : y2;
    const double slope = static_cast<double>(stop - start) / height;
    const double steps_per_x = static_cast<double>(height) / (stop - start);
    for (int32_t c = begin; c < end; ++c) {
      // The first point beyond the middle is this one or the next, as the chain's rounding decides.
      const int32_t middle = 5 * c + 2;
      const int32_t steps = static_cast<int32_t>((middle + 0.5 - start) * steps_per_x + 0.5);
      const int32_t x = static_cast<int32_t>(start + slope * steps + 0.5);
      const bool beyond = slope > 0 ? x > middle : x <= middle;
      toggle(c, row_of_grid_line(top + steps - (beyond ? 1 : 0)));
    }
  }
}

// Replaces each bit of a column by the parity of the bits up to it.
SHARED_INLINE uint32_t running_parity(uint32_t bits) {
  bits ^= bits << 1;
  bits ^= bits << 2;
  bits ^= bits << 4;
  bits ^= bits << 8;
  return bits ^ bits << 16;
}

}  // namespace ops_cuda
