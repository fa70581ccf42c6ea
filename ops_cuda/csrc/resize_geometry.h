// Which source pixels make an output pixel when a picture is resized, for CPU and CUDA: Pillow's
// antialiased bilinear filter, a triangle as wide as the scale, at least one pixel to either side;
// or the plain bilinear one of torch and OpenCV, a pixel to either side whatever the scale.
//
// Positions are float64, weights float32 of small differences: a float32 position would be off by
// an eighth of a level on a picture of 8,192 pixels.

#pragma once

#include <cmath>
#include <cstdint>

#include "portable.h"

namespace ops_cuda {

// The source pixels [first, first + count) of one output position along one axis.
struct AxisTaps {
  int64_t first, count;
  float offset, slope;  // weight of tap k before normalising: 1 - |offset + k| * slope
  float share;          // one over the sum of these weights

  SHARED_INLINE float raw_weight(int64_t k) const {
    const float weight = 1.0f - std::fabs(offset + static_cast<float>(k)) * slope;
    return weight > 0.0f ? weight : 0.0f;
  }

  SHARED_INLINE float weight(int64_t k) const { return raw_weight(k) * share; }
};

SHARED_INLINE AxisTaps axis_taps(int64_t index, int64_t length, int64_t source, bool antialias) {
  const double scale = static_cast<double>(source) / static_cast<double>(length);
  const double support = antialias && scale > 1.0 ? scale : 1.0;
  const double centre = (static_cast<double>(index) + 0.5) * scale;
  const double low = centre - support + 0.5;
  const int64_t first = low > 0.0 ? static_cast<int64_t>(low) : 0;
  int64_t last = static_cast<int64_t>(centre + support + 0.5);
  if (last > source) last = source;
  AxisTaps taps{
      first, last - first, static_cast<float>(static_cast<double>(first) + 0.5 - centre),
      static_cast<float>(1.0 / support), 0.0f};
  float sum = 0.0f;
  for (int64_t k = 0; k < taps.count; ++k) sum += taps.raw_weight(k);
  taps.share = 1.0f / sum;
  return taps;
}

}  // namespace ops_cuda
