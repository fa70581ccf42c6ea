// Encoding of ROI masks to COCO's run lengths, without a bitmap: pairs of stretched rows are
// blended 64 columns at a time, and where a pixel differs from the one above it, the row is
// recorded for its column.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <vector>

#include "simd.h"
#include "stretched_mask.h"

namespace ops_cuda::cpu {

using torch::stable::Tensor;

constexpr int64_t kColumns = StretchedMask::kColumns;

// Sets 0 or 1 for each of 64 columns of one row.
MULTIVERSION void compare_columns(
    const float* __restrict upper, const float* __restrict lower, float fraction, float threshold,
    uint8_t* __restrict set) {
  for (int64_t i = 0; i < kColumns; ++i) {
    set[i] = blend(upper[i], lower[i], fraction) > threshold;
  }
}

// The rows at which each of 64 columns changes, the first from 0 to 1.
class ColumnChanges {
 public:
  void find(const StretchedMask& mask, int64_t first_column, float threshold) {
    capacity_ = mask.bottom - mask.top;
    rows_.resize(kColumns * capacity_);
    std::fill(counts_, counts_ + kColumns, 0);
    alignas(64) uint8_t set[kColumns];
    uint64_t above[kWords] = {};
    for (int64_t y = mask.top; y < mask.bottom; ++y) {
      compare_columns(
          mask.upper(y) + first_column, mask.lower(y) + first_column, mask.fraction(y), threshold,
          set);
      for (int64_t word = 0; word < kWords; ++word) {
        uint64_t here;
        std::memcpy(&here, set + 8 * word, sizeof(here));
        // the lowest bit of each byte that differs
        for (uint64_t rest = here ^ above[word]; rest != 0; rest &= rest - 1) {
          append(8 * word + byte_of_lowest_bit(rest), y);
        }
        above[word] = here;
      }
    }
  }

  const int64_t* begin(int64_t column) const { return rows_.data() + column * capacity_; }
  const int64_t* end(int64_t column) const { return begin(column) + counts_[column]; }

 private:
  static constexpr int64_t kWords = kColumns / 8;

  static int64_t byte_of_lowest_bit(uint64_t bits) {
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "byte 0 is the lowest");
    return __builtin_ctzll(bits) / 8;
  }

  void append(int64_t column, int64_t y) {
    rows_[column * capacity_ + counts_[column]++] = y;
  }

  int64_t capacity_, counts_[kColumns];
  std::vector<int64_t> rows_;
};

// Appends the positions, down the columns of the image, of pixels that differ from the previous
// one.
void append_edges(
    const StretchedMask& mask, int64_t height, float threshold, ColumnChanges& changes,
    std::vector<int64_t>& edges) {
  const auto append = [&edges](int64_t position) {
    // a column that ends set continues at the top of the next one, without an edge between them
    if (!edges.empty() && edges.back() == position) {
      edges.pop_back();
    } else {
      edges.push_back(position);
    }
  };
  const int64_t count = mask.right - mask.left;
  for (int64_t first = 0; first < count; first += kColumns) {
    changes.find(mask, first, threshold);
    for (int64_t i = 0; i < std::min(kColumns, count - first); ++i) {
      const int64_t column_start = (mask.left + first + i) * height;
      const int64_t *begin = changes.begin(i), *end = changes.end(i);
      for (const int64_t* y = begin; y != end; ++y) append(column_start + *y);
      if ((end - begin) % 2 != 0) append(column_start + mask.bottom);
    }
  }
}

// Writes the distances between edges, from the first pixel to the end of the image.
void write_runs(const std::vector<int64_t>& edges, int64_t* runs) {
  int64_t previous = 0;
  for (const int64_t edge : edges) {
    *runs++ = edge - previous;
    previous = edge;
  }
}

std::tuple<Tensor, Tensor> encode_roi_masks_rle(
    const Tensor& masks_in, const Tensor& boxes_in, int64_t height, int64_t width,
    double threshold, bool grid) {
  using torch::headeronly::ScalarType;
  const Tensor masks = torch::stable::contiguous(masks_in);
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  check_masks(masks, boxes);
  const int64_t count = masks.size(0), side = masks.size(1), pixels = height * width;
  const float* mask_data = masks.const_data_ptr<float>();
  const float* box_data = boxes.const_data_ptr<float>();
  std::vector<std::vector<int64_t>> edges(count);
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    StretchedMask mask;
    ColumnChanges changes;
    for (int64_t r = begin; r < end; ++r) {
      const MaskExtent extent = mask_extent(box_data + 4 * r, side, grid);
      mask.fill(mask_data + r * side * side, side, extent, height, width);
      append_edges(mask, height, static_cast<float>(threshold), changes, edges[r]);
      if (edges[r].empty() || edges[r].back() != pixels) edges[r].push_back(pixels);
    }
  });

  Tensor offsets = torch::stable::new_empty(masks, {count + 1}, ScalarType::Long);
  int64_t* offset = offsets.mutable_data_ptr<int64_t>();
  offset[0] = 0;
  for (int64_t r = 0; r < count; ++r) {
    offset[r + 1] = offset[r] + static_cast<int64_t>(edges[r].size());
  }
  Tensor counts = torch::stable::new_empty(masks, {offset[count]}, ScalarType::Long);
  int64_t* runs = counts.mutable_data_ptr<int64_t>();
  for (int64_t r = 0; r < count; ++r) write_runs(edges[r], runs + offset[r]);
  return {counts, offsets};
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("encode_roi_masks_rle", TORCH_BOX(&ops_cuda::cpu::encode_roi_masks_rle));
}
