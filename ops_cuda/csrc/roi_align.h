// ROI align: argument checks, level assignment and sampling positions, shared by CPU and CUDA.
//
// Source: He et al. 2017, section 3; levels: Lin et al. 2017, equation 1. Operations are in the
// order of torchvision's, so that results agree to the last digits.

#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "memory_layout.h"
#include "portable.h"

namespace ops_cuda {

using torch::stable::Tensor;

constexpr int64_t kMaxSamplesPerBin = 1024;

struct RoiAlignOptions {
  int64_t output_side;
  int64_t sampling_ratio;  // 0: as many samples per bin as map pixels
  bool aligned;
  double canonical_side;
  int64_t canonical_level;
  double far_corner_inset;  // image pixels; applied to x2 and y2 after the level is assigned
};

inline void check_roi_align(
    const std::vector<Tensor>& features, const Tensor& rois, const std::vector<double>& scales,
    const RoiAlignOptions& options) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(!features.empty() && features.size() == scales.size(), "one scale per level");
  STD_TORCH_CHECK(rois.dim() == 2 && rois.size(1) == 5, "rois must be (R, 5)");
  STD_TORCH_CHECK(options.output_side > 0, "output_side must be positive");
  STD_TORCH_CHECK(options.sampling_ratio >= 0, "sampling_ratio must not be negative");
  for (const Tensor& map : features) {
    STD_TORCH_CHECK(
        map.dim() == 4 && map.size(0) == features[0].size(0) &&
            map.size(1) == features[0].size(1) && map.size(2) > 0 && map.size(3) > 0 &&
            map.scalar_type() == features[0].scalar_type(),
        "features must be (B, C, H, W) and agree on B, C and type");
  }
  const bool is_double = features[0].scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(
      rois.scalar_type() == (is_double ? ScalarType::Double : ScalarType::Float),
      "rois must be float32, or float64 with float64 features");
}

inline void check_roi_gradient(
    const Tensor& gradient, const std::vector<Tensor>& features, const Tensor& rois,
    const RoiAlignOptions& options) {
  STD_TORCH_CHECK(
      gradient.dim() == 4 && gradient.size(0) == rois.size(0) &&
          gradient.size(1) == features[0].size(1) && gradient.size(2) == options.output_side &&
          gradient.size(3) == options.output_side &&
          gradient.scalar_type() == features[0].scalar_type(),
      "gradient must be (R, C, S, S) of the features' type");
}

// Level of a ROI [image, x1, y1, x2, y2] among `levels`, the finest of which has scale 2^-finest.
template <typename T>
SHARED_INLINE int64_t roi_level(
    const T* roi, int64_t levels, int64_t finest, const RoiAlignOptions& options) {
  if (levels == 1) return 0;
  const T area = (roi[3] - roi[1]) * (roi[4] - roi[2]);
  const T side = std::sqrt(area) / static_cast<T>(options.canonical_side);
  const T level = std::floor(
      static_cast<T>(options.canonical_level) + std::log2(side) + static_cast<T>(1e-6));
  const T index = level - static_cast<T>(finest);
  if (!(index > T(0))) return 0;  // also where the area is NaN
  return index < static_cast<T>(levels - 1) ? static_cast<int64_t>(index) : levels - 1;
}

// One axis of a ROI on its level.
template <typename T>
struct RoiAxis {
  T start, bin_side;
  int64_t samples;  // per bin; 0: nothing to sample

  SHARED_INLINE RoiAxis(T low, T high, T scale, const RoiAlignOptions& options) {
    const T shift = options.aligned ? T(0.5) : T(0);
    start = low * scale - shift;
    T side = (high - static_cast<T>(options.far_corner_inset)) * scale - shift - start;
    if (!options.aligned && !(side >= T(1))) side = T(1);
    const T bins = static_cast<T>(options.output_side);
    bin_side = side / bins;
    samples = options.sampling_ratio;
    if (samples == 0) {
      const T adaptive = std::ceil(bin_side);
      const T limit = static_cast<T>(kMaxSamplesPerBin);
      // a side that is NaN has no samples
      samples = adaptive > T(0) ? static_cast<int64_t>(adaptive < limit ? adaptive : limit) : 0;
    }
  }

  SHARED_INLINE T sample(int64_t bin, int64_t index) const {
    return start + static_cast<T>(bin) * bin_side +
        (static_cast<T>(index) + T(0.5)) * bin_side / static_cast<T>(samples);
  }
};

// The two map pixels that a sample blends: low * (1 - fraction) + high * fraction.
template <typename T>
struct PixelPair {
  int64_t low, high;
  T fraction;
};

// Returns false where the sample lies outside the map and counts as zero.
template <typename T>
SHARED_INLINE bool locate_sample(T position, int64_t length, PixelPair<T>& pair) {
  // written so that NaN is outside
  if (!(position >= T(-1) && position <= static_cast<T>(length))) return false;
  if (position < T(0)) position = T(0);
  const int64_t low = static_cast<int64_t>(position);
  if (low >= length - 1) {
    pair = {length - 1, length - 1, T(0)};
  } else {
    pair = {low, low + 1, position - static_cast<T>(low)};
  }
  return true;
}

}  // namespace ops_cuda
