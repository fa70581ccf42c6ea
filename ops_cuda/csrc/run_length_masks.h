// Run-length masks under the cells of a box: argument checks and integer areas, shared by CPU and
// CUDA.
//
// The edges of cells are rounded to 1/4096 pixel, so every area is an exact integer and the order
// of summation does not matter: CPU, CUDA and the reference implementation agree in every bit.

#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <cstdint>

#include "portable.h"

namespace ops_cuda {

using torch::stable::Tensor;

inline void check_run_masks(
    const Tensor& run_offsets, const Tensor& heights, const Tensor& object_indices,
    const Tensor& boxes) {
  STD_TORCH_CHECK(run_offsets.numel() > 0, "run_offsets must start with 0");
  STD_TORCH_CHECK(
      heights.numel() == run_offsets.numel() - 1, "heights must be (G,), one per object");
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "boxes must be (R, 4)");
  STD_TORCH_CHECK(
      object_indices.numel() == boxes.size(0), "object_indices must be (R,), one per box");
}

constexpr int64_t kPixel = 4096;          // units per pixel
constexpr int64_t kMaxCanvas = 1 << 17;   // pixels per side; twice any area then fits in 63 bits

// An object's alternating runs of zeros and ones down the columns of its canvas, zeros first.
struct RunMask {
  const int64_t* ends;  // of each run, ascending, counted from the start of the canvas
  int64_t count, height;

  SHARED_INLINE int64_t columns() const {
    return count > 0 && ends[count - 1] > 0 ? (ends[count - 1] - 1) / height + 1 : 0;
  }

  // The first run that ends after `pixel`.
  SHARED_INLINE int64_t run_at(int64_t pixel) const {
    int64_t low = 0, high = count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      const bool ends_after = ends[middle] > pixel;
      high = ends_after ? middle : high;
      low = ends_after ? low : middle + 1;
    }
    return low;
  }
};

// One axis of a box, cut into `side` cells. Flipped axes are cut from the other end, so that a
// flipped box gives exactly the flipped mask. Less than a tenth of a pixel counts as a tenth.
struct CellAxis {
  double low, extent;
  int64_t side;
  bool flipped;

  SHARED_INLINE CellAxis(double begin, double end, int64_t side)
      : low(begin < end ? begin : end), extent(begin < end ? end - begin : begin - end),
        side(side), flipped(end < begin) {
    if (!(extent >= 0.1)) extent = 0.1;
  }

  // Start of the i-th cell in ascending order, in units.
  SHARED_INLINE int64_t edge(int64_t i) const {
    const double limit = static_cast<double>(kPixel * kMaxCanvas);
    const double units = (low + extent * i / side) * kPixel + 0.5;
    const double bounded = units > -limit ? units : -limit;
    return static_cast<int64_t>(std::floor(bounded < limit ? bounded : limit));
  }

  // Index in the mask of the i-th cell in ascending order.
  SHARED_INLINE int64_t mask_index(int64_t i) const { return flipped ? side - 1 - i : i; }
};

SHARED_INLINE int64_t larger(int64_t one, int64_t other) { return one > other ? one : other; }
SHARED_INLINE int64_t smaller(int64_t one, int64_t other) { return one < other ? one : other; }

// Rounds toward minus infinity.
SHARED_INLINE int64_t units_to_pixels(int64_t units) { return units >> 12; }

// Calls visit(from, to) for each span of mask in a column between two heights, all in units.
// `run` is the first run that ends below the upper height, from run_at.
template <typename Visit>
SHARED_INLINE void visit_spans(
    const RunMask& mask, int64_t column, int64_t run, int64_t upper, int64_t lower, Visit visit) {
  const int64_t base = column * mask.height, end = base + mask.height;
  const int64_t stop = smaller(base + units_to_pixels(lower + kPixel - 1), end);
  int64_t begin = run > 0 ? mask.ends[run - 1] : 0;
  for (; run < mask.count && begin < stop; ++run) {
    const int64_t first = larger(begin, base), last = larger(smaller(mask.ends[run], end), base);
    const int64_t from = larger((first - base) * kPixel, upper);
    const int64_t to = smaller((last - base) * kPixel, lower);
    if (run % 2 == 1 && from < to) visit(from, to);
    begin = mask.ends[run];
  }
}

SHARED_INLINE float is_at_least_half(int64_t covered, int64_t area) {
  return covered > 0 && 2 * covered >= area ? 1.0f : 0.0f;
}

SHARED_INLINE bool is_finite_box(const float* box) {
  const float sum = (box[0] - box[0]) + (box[1] - box[1]) + (box[2] - box[2]) + (box[3] - box[3]);
  return sum == 0.0f;
}

}  // namespace ops_cuda
