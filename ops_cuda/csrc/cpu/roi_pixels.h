// The pixels that each bin of a ROI reads and their weights: ROI align as a weighted sum.

#pragma once

#include <cstdint>
#include <vector>

#include "../roi_align.h"

namespace ops_cuda::cpu {

// Pixels of one bin: offset of the first channel in the map, and weight.
template <typename T>
struct BinPixels {
  std::vector<int64_t> offsets;
  std::vector<T> weights;
};

// Pixels and weights that each bin reads along one axis; equal neighbors are merged.
template <typename T>
struct AxisPixels {
  std::vector<int64_t> starts;  // (S + 1), into the two below
  std::vector<int64_t> pixels;
  std::vector<T> weights;

  void fill(const RoiAxis<T>& axis, int64_t bins, int64_t length) {
    starts.assign(1, 0);
    pixels.clear();
    weights.clear();
    for (int64_t bin = 0; bin < bins; ++bin) {
      for (int64_t i = 0; i < axis.samples; ++i) {
        PixelPair<T> pair;
        if (!locate_sample(axis.sample(bin, i), length, pair)) continue;
        add(pair.low, T(1) - pair.fraction);
        add(pair.high, pair.fraction);
      }
      for (size_t i = starts.back(); i < weights.size(); ++i) weights[i] /= axis.samples;
      starts.push_back(pixels.size());
    }
  }

 private:
  void add(int64_t pixel, T weight) {
    const size_t first = starts.back(), end = pixels.size();
    // samples advance by less than a pixel or skip pixels: a match is among the last two
    for (size_t i = end; i > first && i + 2 > end; --i) {
      if (pixels[i - 1] == pixel) {
        weights[i - 1] += weight;
        return;
      }
    }
    pixels.push_back(pixel);
    weights.push_back(weight);
  }
};

// Map of one level, NHWC; `data` is null if no ROI is on the level.
template <typename T>
struct LevelMap {
  T* data = nullptr;
  int64_t height = 0, width = 0;
  T scale = 0;
};

// Computes the pixels of each bin of a ROI, reusing its buffers.
template <typename T>
class RoiPixels {
 public:
  RoiPixels(const std::vector<LevelMap<T>>& maps, int64_t channels, const RoiAlignOptions& options)
      : maps_(maps), channels_(channels), options_(options) {}

  // Calls visit(bin, BinPixels) for each bin of the ROI, row by row.
  template <typename Visit>
  void visit_bins(const T* roi, int64_t level, Visit visit) {
    const LevelMap<T>& map = maps_[level];
    const int64_t side = options_.output_side;
    columns_.fill(RoiAxis<T>(roi[1], roi[3], map.scale, options_), side, map.width);
    rows_.fill(RoiAxis<T>(roi[2], roi[4], map.scale, options_), side, map.height);
    const int64_t image = static_cast<int64_t>(roi[0]) * map.height * map.width * channels_;
    for (int64_t bin = 0; bin < side * side; ++bin) {
      collect(bin / side, bin % side, image, map.width);
      visit(bin, bin_);
    }
  }

 private:
  void collect(int64_t row_bin, int64_t column_bin, int64_t image, int64_t width) {
    bin_.offsets.clear();
    bin_.weights.clear();
    for (int64_t y = rows_.starts[row_bin]; y < rows_.starts[row_bin + 1]; ++y) {
      const int64_t row = image + rows_.pixels[y] * width * channels_;
      for (int64_t x = columns_.starts[column_bin]; x < columns_.starts[column_bin + 1]; ++x) {
        bin_.offsets.push_back(row + columns_.pixels[x] * channels_);
        bin_.weights.push_back(rows_.weights[y] * columns_.weights[x]);
      }
    }
  }

  const std::vector<LevelMap<T>>& maps_;
  int64_t channels_;
  RoiAlignOptions options_;
  AxisPixels<T> columns_, rows_;
  BinPixels<T> bin_;
};

}  // namespace ops_cuda::cpu
