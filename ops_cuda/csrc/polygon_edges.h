// Where polygons cross the columns of a mask, for CPU and CUDA: the rule of pycocotools.
//
// Outlines lie on a grid of fifths of a cell. An edge is a chain of grid points, one for each step
// along its longer axis. Where the chain steps between grid columns 5 c + 2 and 5 c + 3, it crosses
// the middle of mask column c: all cells of the column from there downwards change sides.
// pycocotools visits every point of the chain; here the step of each column is found at once. Both
// agree in every bit while vertices lie within a million cells of the box: farther away pycocotools
// runs into the rounding of doubles, then into overflow, which is excluded here.

#pragma once

#include <cstdint>

#include "portable.h"

namespace ops_cuda {

// Maps image coordinates into cells of a box. A box less than a tenth of a pixel wide, or inside
// out, counts as that wide: detectron2's rule.
struct CellFrame {
  double x1, y1, cells_per_x, cells_per_y;
  bool finite;
};

SHARED_INLINE bool is_finite(float value) { return value - value == 0.0f; }

SHARED_INLINE CellFrame cell_frame(const float* box, int64_t side) {
  const double x1 = box[0], y1 = box[1];
  const double width = box[2] - x1, height = box[3] - y1, least = 0.1;
  return {
      x1, y1, static_cast<double>(side) / (width > least ? width : least),
      static_cast<double>(side) / (height > least ? height : least),
      is_finite(box[0]) && is_finite(box[1]) && is_finite(box[2]) && is_finite(box[3])};
}

// The grid line nearest to a position in cells, as C rounds: towards zero after adding a half.
// Differences of any two fit in an int.
SHARED_INLINE int32_t grid_line(double cells) {
  const double farthest = (1 << 30) - 1;
  const double fifths = 5.0 * cells + 0.5;
  const double low = fifths > -farthest ? fifths : -farthest;  // NaN becomes a number here
  return static_cast<int32_t>(low < farthest ? low : farthest);
}

SHARED_INLINE int32_t row_of_grid_line(int32_t y) { return y < 3 ? 0 : (y + 2) / 5; }

// Calls toggle(column, row) for each column in [first_column, end_column) whose middle the edge
// between two grid points crosses; rows may lie below the mask.
template <typename Toggle>
SHARED_INLINE void cross_columns(
    int32_t x1, int32_t y1, int32_t x2, int32_t y2, int32_t first_column, int32_t end_column,
    Toggle toggle) {
  const bool rightwards = x1 <= x2, downwards = y1 <= y2;
  const int32_t left = rightwards ? x1 : x2, right = rightwards ? x2 : x1;
  const int32_t first = left < 3 ? 0 : (left + 2) / 5, last = right < 3 ? -1 : (right - 3) / 5;
  const int32_t begin = first > first_column ? first : first_column;
  const int32_t end = last < end_column ? last + 1 : end_column;
  if (begin >= end) return;
  const int32_t width = right - left, height = downwards ? y2 - y1 : y1 - y2;
  if (width >= height) {
    const int32_t start = rightwards ? y1 : y2, stop = rightwards ? y2 : y1;
    const double slope = static_cast<double>(stop - start) / width;
    const int32_t upper = slope >= 0 ? 2 : 3;  // of the two points around the middle
    for (int32_t c = begin; c < end; ++c) {
      const int32_t steps = 5 * c + upper - left;
      toggle(c, row_of_grid_line(static_cast<int32_t>(start + slope * steps + 0.5)));
    }
  } else {
    const int32_t start = downwards ? x1 : x2, stop = downwards ? x2 : x1;
    const int32_t top = downwards ? y1 : y2;
    const double slope = static_cast<double>(stop - start) / height;
    const double steps_per_x = static_cast<double>(height) / (stop - start);
    for (int32_t c = begin; c < end; ++c) {
      // The first point beyond the middle is this one or the next: the chain's own rounding says.
      const int32_t middle = 5 * c + 2;
      const int32_t steps = static_cast<int32_t>((middle + 0.5 - start) * steps_per_x + 0.5);
      const int32_t x = static_cast<int32_t>(start + slope * steps + 0.5);
      const bool beyond = slope > 0 ? x > middle : x <= middle;
      toggle(c, row_of_grid_line(top + steps - (beyond ? 1 : 0)));
    }
  }
}

// Each bit of a column becomes the parity of the bits up to it.
SHARED_INLINE uint32_t running_parity(uint32_t bits) {
  bits ^= bits << 1;
  bits ^= bits << 2;
  bits ^= bits << 4;
  bits ^= bits << 8;
  return bits ^ bits << 16;
}

}  // namespace ops_cuda
