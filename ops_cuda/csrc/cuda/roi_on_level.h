// The maps of a call, a ROI on its level, and the pixels of its bins.

#pragma once

#include <cstdint>

#include "../roi_align.h"

namespace ops_cuda::gpu {

constexpr int kMaxLevels = 8;

// All maps of a call, NHWC. `Map` is const for reading, mutable for gradients.
template <typename Map, typename S>
struct Pyramid {
  Map* maps[kMaxLevels];
  int64_t heights[kMaxLevels], widths[kMaxLevels];
  S scales[kMaxLevels];
  int64_t levels, finest, images, channels;
};

// A ROI on its level; `valid` is false if its image is not in the batch.
template <typename Map, typename S>
struct RoiOnLevel {
  Map* image;
  int64_t height, width;
  RoiAxis<S> columns, rows;
  bool valid;

  __device__ RoiOnLevel(
      const S* roi, const Pyramid<Map, S>& pyramid, const RoiAlignOptions& options)
      : RoiOnLevel(
            roi, pyramid, options, roi_level(roi, pyramid.levels, pyramid.finest, options)) {}

 private:
  __device__ RoiOnLevel(
      const S* roi, const Pyramid<Map, S>& pyramid, const RoiAlignOptions& options, int64_t level)
      : image(nullptr),
        height(pyramid.heights[level]),
        width(pyramid.widths[level]),
        columns(roi[1], roi[3], pyramid.scales[level], options),
        rows(roi[2], roi[4], pyramid.scales[level], options),
        valid(roi[0] >= S(0) && roi[0] < static_cast<S>(pyramid.images)) {
    if (valid) {
      image = pyramid.maps[level] +
          static_cast<int64_t>(roi[0]) * height * width * pyramid.channels;
    }
  }
};

// Calls visit(pixel offset, weight) for the pixels that a bin reads, four per sample.
template <typename Roi, typename S, typename Visit>
__device__ inline void visit_pixels(
    const Roi& roi, int64_t row_bin, int64_t column_bin, int64_t channels, S, Visit visit) {
  if (!roi.valid) return;
  const S share = S(1) / static_cast<S>(roi.rows.samples * roi.columns.samples);
  for (int64_t i = 0; i < roi.rows.samples; ++i) {
    PixelPair<S> y;
    if (!locate_sample(roi.rows.sample(row_bin, i), roi.height, y)) continue;
    for (int64_t j = 0; j < roi.columns.samples; ++j) {
      PixelPair<S> x;
      if (!locate_sample(roi.columns.sample(column_bin, j), roi.width, x)) continue;
      const S upper = (S(1) - y.fraction) * share, lower = y.fraction * share;
      visit((y.low * roi.width + x.low) * channels, upper * (S(1) - x.fraction));
      visit((y.low * roi.width + x.high) * channels, upper * x.fraction);
      visit((y.high * roi.width + x.low) * channels, lower * (S(1) - x.fraction));
      visit((y.high * roi.width + x.high) * channels, lower * x.fraction);
    }
  }
}

}  // namespace ops_cuda::gpu
