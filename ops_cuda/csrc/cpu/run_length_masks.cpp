// Resampling of run-length masks inside boxes. One pass over the runs under the box records both
// ends of each span of mask in their cells; a cumulative sum up each column of cells gives the
// areas.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../run_length_masks.h"
#include "index_checks.h"

namespace ops_cuda::cpu {

// The area of mask in one column of cells. The end of a span at height y, with weight w, adds w
// times their height to the cells above its own, and to its own cell w times its height above y.
class CellColumn {
 public:
  explicit CellColumn(int64_t side)
      : side_(side), edges_(side + 1), full_(side + 1), part_(side + 1) {}

  void cut(const CellAxis& axis) {
    for (int64_t i = 0; i <= side_; ++i) edges_[i] = axis.edge(i);
    const int64_t height = edges_[side_] - edges_[0];
    cells_per_unit_ = height > 0 ? static_cast<double>(side_) / height : 0.0;
  }

  int64_t upper() const { return edges_[0]; }
  int64_t lower() const { return edges_[side_]; }
  int64_t height(int64_t i) const { return edges_[i + 1] - edges_[i]; }

  void clear() {
    std::fill(full_.begin(), full_.end(), 0);
    std::fill(part_.begin(), part_.end(), 0);
  }

  void add_end(int64_t y, int64_t weight) {
    int64_t i = static_cast<int64_t>((y - edges_[0]) * cells_per_unit_);
    while (i > 0 && edges_[i] > y) --i;
    while (i < side_ && edges_[i + 1] <= y) ++i;
    full_[i] += weight;
    part_[i] += weight * (y - edges_[i]);
  }

  // Calls write(i, area) for each cell.
  template <typename Write>
  void write_areas(Write write) const {
    int64_t weight = 0;
    for (int64_t i = side_ - 1; i >= 0; --i) {
      weight += full_[i + 1];
      write(i, weight * height(i) + part_[i]);
    }
  }

 private:
  int64_t side_;
  double cells_per_unit_ = 0;
  std::vector<int64_t> edges_, full_, part_;
};

void resample_mask(
    const RunMask& mask, const float* box, int64_t side, CellColumn& cells, float* output) {
  std::fill_n(output, side * side, 0.0f);
  if (!is_finite_box(box)) return;
  const CellAxis x_axis(box[0], box[2], side), y_axis(box[1], box[3], side);
  cells.cut(y_axis);
  const int64_t columns = mask.columns();
  const int64_t upper = cells.upper(), lower = cells.lower();
  const int64_t first_row = larger(units_to_pixels(upper), 0);
  if (lower <= 0 || first_row >= mask.height) return;
  int64_t current = -1, run = 0;  // the first run of the current column that reaches the box
  for (int64_t j = 0; j < side; ++j) {
    const int64_t left = x_axis.edge(j), right = x_axis.edge(j + 1);
    const int64_t begin = larger(units_to_pixels(left), 0);
    const int64_t end = smaller(units_to_pixels(right + kPixel - 1), columns);
    cells.clear();
    for (int64_t c = begin; c < end; ++c) {
      const int64_t start = c * mask.height + first_row;
      if (current < 0) run = mask.run_at(start);
      while (c > current && run < mask.count && mask.ends[run] <= start) ++run;
      current = c;
      const int64_t weight = smaller(right, (c + 1) * kPixel) - larger(left, c * kPixel);
      visit_spans(mask, c, run, upper, lower, [&](int64_t from, int64_t to) {
        cells.add_end(to, weight);
        cells.add_end(from, -weight);
      });
    }
    if (begin >= end) continue;
    cells.write_areas([&](int64_t i, int64_t covered) {
      output[y_axis.mask_index(i) * side + x_axis.mask_index(j)] =
          is_at_least_half(covered, (right - left) * cells.height(i));
    });
  }
}

void check_heights(const Tensor& heights) {
  const int64_t* data = heights.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < heights.numel(); ++n) {
    STD_TORCH_CHECK(
        data[n] > 0 && data[n] <= kMaxCanvas, "heights[", n, "] must be in [1, ", kMaxCanvas,
        "]; got ", data[n]);
  }
}

Tensor rasterize_rle(
    const Tensor& run_ends_in, const Tensor& run_offsets_in, const Tensor& heights_in,
    const Tensor& object_indices_in, const Tensor& boxes_in, int64_t side) {
  const Tensor run_ends = torch::stable::contiguous(run_ends_in);
  const Tensor run_offsets = torch::stable::contiguous(run_offsets_in);
  const Tensor heights = torch::stable::contiguous(heights_in);
  const Tensor object_indices = torch::stable::contiguous(object_indices_in);
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  check_run_masks(run_offsets, heights, object_indices, boxes);
  check_offsets(run_offsets, run_ends.numel(), "run_offsets");
  check_heights(heights);
  check_object_indices(object_indices, run_offsets.numel() - 1);

  const int64_t count = boxes.size(0);
  Tensor masks = torch::stable::new_empty(boxes, {count, side, side});
  const int64_t* ends = run_ends.const_data_ptr<int64_t>();
  const int64_t* offsets = run_offsets.const_data_ptr<int64_t>();
  const int64_t* height = heights.const_data_ptr<int64_t>();
  const int64_t* indices = object_indices.const_data_ptr<int64_t>();
  const float* box_data = boxes.const_data_ptr<float>();
  float* mask_data = masks.mutable_data_ptr<float>();
  // a mask takes several microseconds: fewer are not worth waking up a thread
  torch::stable::parallel_for(0, count, 64, [&](int64_t begin, int64_t end) {
    CellColumn cells(side);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t n = indices[r], first = offsets[n];
      const RunMask mask{ends + first, offsets[n + 1] - first, height[n]};
      resample_mask(mask, box_data + 4 * r, side, cells, mask_data + r * side * side);
    }
  });
  return masks;
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("rasterize_rle", TORCH_BOX(&ops_cuda::cpu::rasterize_rle));
}
