// ROI align over all pyramid levels, forward and backward, on channels_last maps.
//
// A bin is a weighted sum of pixels, and a pixel is a row of channels: the weights are computed
// once per axis and bin, and the loop over channels is vectorized. The forward pass distributes
// ROIs over the threads; the backward pass distributes channels, so that no two threads add to the
// same number and the order of the sums does not depend on the number of threads.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "../roi_align.h"
#include "huge_pages.h"
#include "pixel_sums.h"
#include "roi_pixels.h"

namespace ops_cuda::cpu {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Returns the level of each ROI. Throws if its image is not in the batch.
template <typename T>
std::vector<int64_t> assign_levels(
    const Tensor& rois, int64_t images, const std::vector<double>& scales,
    const RoiAlignOptions& options) {
  const T* data = rois.const_data_ptr<T>();
  const int64_t finest = std::llround(-std::log2(scales[0]));
  std::vector<int64_t> levels(rois.size(0));
  for (int64_t r = 0; r < rois.size(0); ++r) {
    const T image = data[5 * r];
    STD_TORCH_CHECK(
        image >= T(0) && image < static_cast<T>(images), "rois[", r, "] is of image ", image,
        ", but the batch has ", images);
    levels[r] = roi_level(data + 5 * r, scales.size(), finest, options);
  }
  return levels;
}

template <typename T>
Tensor forward_typed(
    const std::vector<Tensor>& features, const Tensor& rois, const std::vector<double>& scales,
    const RoiAlignOptions& options) {
  const int64_t channels = features[0].size(1), side = options.output_side;
  const auto levels = assign_levels<T>(rois, features[0].size(0), scales, options);
  std::vector<Tensor> owners;
  std::vector<LevelMap<T>> maps(features.size());
  for (size_t i = 0; i < features.size(); ++i) {
    if (std::find(levels.begin(), levels.end(), i) == levels.end()) continue;
    owners.push_back(torch::stable::contiguous(features[i], MemoryFormat::ChannelsLast));
    maps[i] = {
        const_cast<T*>(owners.back().template const_data_ptr<T>()), features[i].size(2),
        features[i].size(3), static_cast<T>(scales[i])};
  }

  const bool channels_last = is_channels_last(features[0]);
  Tensor pooled = torch::stable::empty(
      {rois.size(0), channels, side, side}, rois.scalar_type(), std::nullopt, rois.device(),
      std::nullopt, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  T* output = pooled.mutable_data_ptr<T>();
  prefer_huge_pages(output, pooled.numel() * sizeof(T));
  const T* roi_data = rois.const_data_ptr<T>();
  const int64_t bins = side * side, roi_size = bins * channels;
  torch::stable::parallel_for(0, rois.size(0), 4, [&](int64_t begin, int64_t end) {
    RoiPixels<T> geometry(maps, channels, options);
    std::vector<T> buffer(channels_last ? 0 : roi_size);
    for (int64_t r = begin; r < end; ++r) {
      T* target = channels_last ? output + r * roi_size : buffer.data();
      const T* map = maps[levels[r]].data;
      geometry.visit_bins(roi_data + 5 * r, levels[r], [&](int64_t bin, const BinPixels<T>& b) {
        sum_pixels(
            map, b.offsets.data(), b.weights.data(), b.offsets.size(), channels,
            target + bin * channels);
      });
      if (channels_last) continue;
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t bin = 0; bin < bins; ++bin) {
          output[r * roi_size + c * bins + bin] = buffer[bin * channels + c];
        }
      }
    }
  });
  return pooled;
}

template <typename T>
std::vector<Tensor> backward_typed(
    const Tensor& gradient_in, const std::vector<Tensor>& features, const Tensor& rois,
    const std::vector<double>& scales, const RoiAlignOptions& options) {
  const int64_t channels = features[0].size(1), bins = options.output_side * options.output_side;
  const auto levels = assign_levels<T>(rois, features[0].size(0), scales, options);
  const Tensor gradient = torch::stable::contiguous(gradient_in, MemoryFormat::ChannelsLast);
  std::vector<Tensor> outputs;
  std::vector<LevelMap<T>> maps(features.size());
  for (size_t i = 0; i < features.size(); ++i) {
    Tensor map = torch::stable::empty(
        features[i].sizes(), features[i].scalar_type(), std::nullopt, features[i].device(),
        std::nullopt, MemoryFormat::ChannelsLast);
    prefer_huge_pages(map.mutable_data_ptr<T>(), map.numel() * sizeof(T));
    torch::stable::zero_(map);
    maps[i] = {
        map.mutable_data_ptr<T>(), features[i].size(2), features[i].size(3),
        static_cast<T>(scales[i])};
    outputs.push_back(map);
  }

  const T* incoming = gradient.const_data_ptr<T>();
  const T* roi_data = rois.const_data_ptr<T>();
  constexpr int64_t line = 64 / sizeof(T);  // channels in one cache line have one owner
  torch::stable::parallel_for(0, (channels + line - 1) / line, 1, [&](int64_t begin, int64_t end) {
    RoiPixels<T> geometry(maps, channels, options);
    const int64_t first = begin * line, count = std::min(end * line, channels) - first;
    for (int64_t r = 0; r < rois.size(0); ++r) {
      T* map = maps[levels[r]].data + first;
      const T* roi_gradient = incoming + r * bins * channels + first;
      geometry.visit_bins(roi_data + 5 * r, levels[r], [&](int64_t bin, const BinPixels<T>& b) {
        add_to_pixels(
            roi_gradient + bin * channels, b.offsets.data(), b.weights.data(), b.offsets.size(),
            count, map);
      });
    }
  });
  for (size_t i = 0; i < features.size(); ++i) {
    if (!is_channels_last(features[i])) outputs[i] = torch::stable::contiguous(outputs[i]);
  }
  return outputs;
}

void check_arguments(
    const std::vector<Tensor>& features, const Tensor& rois, const std::vector<double>& scales,
    const RoiAlignOptions& options) {
  check_roi_align(features, rois, scales, options);
  STD_TORCH_CHECK(
      features[0].scalar_type() == rois.scalar_type(),
      "on the CPU features must be float32 or float64");
}

Tensor multiscale_roi_align(
    const std::vector<Tensor>& features, const Tensor& rois_in, const std::vector<double>& scales,
    int64_t output_side, int64_t sampling_ratio, bool aligned, double canonical_side,
    int64_t canonical_level, double far_corner_inset) {
  const RoiAlignOptions options{
      output_side, sampling_ratio, aligned, canonical_side, canonical_level, far_corner_inset};
  const Tensor rois = torch::stable::contiguous(rois_in);
  check_arguments(features, rois, scales, options);
  if (rois.scalar_type() == ScalarType::Double) {
    return forward_typed<double>(features, rois, scales, options);
  }
  return forward_typed<float>(features, rois, scales, options);
}

std::vector<Tensor> multiscale_roi_align_backward(
    const Tensor& gradient, const std::vector<Tensor>& features, const Tensor& rois_in,
    const std::vector<double>& scales, int64_t output_side, int64_t sampling_ratio, bool aligned,
    double canonical_side, int64_t canonical_level, double far_corner_inset) {
  const RoiAlignOptions options{
      output_side, sampling_ratio, aligned, canonical_side, canonical_level, far_corner_inset};
  const Tensor rois = torch::stable::contiguous(rois_in);
  check_arguments(features, rois, scales, options);
  check_roi_gradient(gradient, features, rois, options);
  if (rois.scalar_type() == ScalarType::Double) {
    return backward_typed<double>(gradient, features, rois, scales, options);
  }
  return backward_typed<float>(gradient, features, rois, scales, options);
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("multiscale_roi_align", TORCH_BOX(&ops_cuda::cpu::multiscale_roi_align));
  library.impl(
      "multiscale_roi_align_backward", TORCH_BOX(&ops_cuda::cpu::multiscale_roi_align_backward));
}
