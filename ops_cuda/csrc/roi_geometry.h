// What CPU and CUDA share about ROI align: which level a roi reads, and where its samples lie.
//
// Source: He et al. 2017, section 3; levels: Lin et al. 2017, equation 1. Operations come in the
// order of torchvision's, so that results agree to the last digits.

#pragma once

#include <cmath>
#include <cstdint>

#include "portable.h"

namespace ops_cuda {

constexpr int64_t kMaxSamplesPerBin = 1024;

struct RoiAlignOptions {
  int64_t output_side;
  int64_t sampling_ratio;  // 0: as many samples per bin as map pixels
  bool aligned;
  double canonical_side;
  int64_t canonical_level;
  double trim;  // of the far corner, image pixels, before sampling; levels go by the whole roi
};

// Level of a roi [image, x1, y1, x2, y2] among `levels`, the finest of which has 2^-finest scale.
template <typename T>
SHARED_INLINE int64_t roi_level(
    const T* roi, int64_t levels, int64_t finest, const RoiAlignOptions& options) {
  if (levels == 1) return 0;
  const T area = (roi[3] - roi[1]) * (roi[4] - roi[2]);
  const T side = std::sqrt(area) / static_cast<T>(options.canonical_side);
  const T level = std::floor(
      static_cast<T>(options.canonical_level) + std::log2(side) + static_cast<T>(1e-6));
  const T position = level - static_cast<T>(finest);
  if (!(position > T(0))) return 0;  // also where the area is no number
  return position < static_cast<T>(levels - 1) ? static_cast<int64_t>(position) : levels - 1;
}

// One axis of a roi on its level.
template <typename T>
struct RoiAxis {
  T start, bin_side;
  int64_t samples;  // per bin; 0: nothing to sample

  SHARED_INLINE RoiAxis(T low, T high, T scale, const RoiAlignOptions& options) {
    const T shift = options.aligned ? T(0.5) : T(0);
    start = low * scale - shift;
    T side = (high - static_cast<T>(options.trim)) * scale - shift - start;
    if (!options.aligned && !(side >= T(1))) side = T(1);
    const T bins = static_cast<T>(options.output_side);
    bin_side = side / bins;
    samples = options.sampling_ratio;
    if (samples == 0) {
      const T wanted = std::ceil(bin_side);
      const T limit = static_cast<T>(kMaxSamplesPerBin);
      // a side that is no number has no samples
      samples = wanted > T(0) ? static_cast<int64_t>(wanted < limit ? wanted : limit) : 0;
    }
  }

  SHARED_INLINE T sample(int64_t bin, int64_t index) const {
    return start + static_cast<T>(bin) * bin_side +
        (static_cast<T>(index) + T(0.5)) * bin_side / static_cast<T>(samples);
  }
};

// The two map pixels that a sample at `at` blends: low * (1 - fraction) + high * fraction.
template <typename T>
struct PixelPair {
  int64_t low, high;
  T fraction;
};

// False where the sample lies outside the map and counts as zero.
template <typename T>
SHARED_INLINE bool locate(T at, int64_t length, PixelPair<T>& pair) {
  // written so that NaN is outside
  if (!(at >= T(-1) && at <= static_cast<T>(length))) return false;
  if (at < T(0)) at = T(0);
  const int64_t low = static_cast<int64_t>(at);
  if (low >= length - 1) {
    pair = {length - 1, length - 1, T(0)};
  } else {
    pair = {low, low + 1, at - static_cast<T>(low)};
  }
  return true;
}

}  // namespace ops_cuda
