// ROI align over all pyramid levels on channels_last maps: one warp per bin, its lanes share the
// channels, so that every read of a pixel and every write of a bin is one run of memory.
//
// Backward adds with atomics, in float32 also for half types: the order of the sums, and with it
// the last bits, may change from run to run.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../roi_geometry.h"
#include "launch.h"
#include "placed_roi.h"

namespace ops_cuda::gpu {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kWarp = 32, kWarpsPerBlock = 4;

// Sums are kept in this type.
template <typename T>
using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
  T values[N];
};

// pooled: (R, S, S, C). N channels per lane and step; C is a multiple of N.
template <typename T, int N>
__global__ void __launch_bounds__(kWarp* kWarpsPerBlock) pool(
    const __grid_constant__ Pyramid<const T, Sum<T>> pyramid, const Sum<T>* __restrict__ rois,
    int64_t count, const __grid_constant__ RoiAlignOptions options, T* __restrict__ pooled) {
  using S = Sum<T>;
  const int64_t side = options.output_side, bins = side * side, channels = pyramid.channels;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.y;
       item < count * bins; item += warps) {
    const int64_t bin = item % bins;
    const PlacedRoi<const T, S> roi(rois + 5 * (item / bins), pyramid, options);
    for (int64_t c = threadIdx.x * N; c < channels; c += kWarp * N) {
      S sums[N] = {};
      visit_pixels(roi, bin / side, bin % side, channels, S(), [&](int64_t offset, S weight) {
        const auto pixel = *reinterpret_cast<const Pack<T, N>*>(roi.image + offset + c);
#pragma unroll
        for (int k = 0; k < N; ++k) sums[k] += weight * static_cast<S>(pixel.values[k]);
      });
      Pack<T, N> result;
#pragma unroll
      for (int k = 0; k < N; ++k) result.values[k] = static_cast<T>(sums[k]);
      *reinterpret_cast<Pack<T, N>*>(pooled + item * channels + c) = result;
    }
  }
}

// gradient: (R, S, S, C); the pyramid's maps are added to.
template <typename T>
__global__ void __launch_bounds__(kWarp* kWarpsPerBlock) spread(
    const __grid_constant__ Pyramid<Sum<T>, Sum<T>> pyramid, const Sum<T>* __restrict__ rois,
    int64_t count, const __grid_constant__ RoiAlignOptions options,
    const T* __restrict__ gradient) {
  using S = Sum<T>;
  const int64_t side = options.output_side, bins = side * side, channels = pyramid.channels;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.y;
       item < count * bins; item += warps) {
    const int64_t bin = item % bins;
    const PlacedRoi<S, S> roi(rois + 5 * (item / bins), pyramid, options);
    for (int64_t c = threadIdx.x; c < channels; c += kWarp) {
      const S value = static_cast<S>(gradient[item * channels + c]);
      visit_pixels(roi, bin / side, bin % side, channels, S(), [&](int64_t offset, S weight) {
        atomicAdd(roi.image + offset + c, weight * value);
      });
    }
  }
}

// Strides of channels_last; the same rule stands in the fake kernels (registration.py).
bool is_channels_last(const Tensor& map) { return map.stride(1) == 1 && map.size(1) > 1; }

template <typename T>
T* data_of(const Tensor& tensor) {
  return static_cast<T*>(const_cast<void*>(tensor.const_data_ptr()));
}

bool aligned_to(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

template <typename Map, typename S>
Pyramid<Map, S> pyramid_of(const std::vector<Tensor>& maps, const std::vector<double>& scales) {
  Pyramid<Map, S> pyramid{};
  pyramid.levels = static_cast<int64_t>(maps.size());
  pyramid.finest = std::llround(-std::log2(scales[0]));
  pyramid.images = maps[0].size(0);
  pyramid.channels = maps[0].size(1);
  for (size_t i = 0; i < maps.size(); ++i) {
    pyramid.maps[i] = data_of<std::remove_const_t<Map>>(maps[i]);
    pyramid.heights[i] = maps[i].size(2);
    pyramid.widths[i] = maps[i].size(3);
    pyramid.scales[i] = static_cast<S>(scales[i]);
  }
  return pyramid;
}

template <typename T>
Tensor forward_typed(
    const std::vector<Tensor>& features, const Tensor& rois, const std::vector<double>& scales,
    const RoiAlignOptions& options) {
  using S = Sum<T>;
  const int64_t channels = features[0].size(1), side = options.output_side;
  std::vector<Tensor> maps;
  for (const Tensor& map : features) {
    maps.push_back(torch::stable::contiguous(map, MemoryFormat::ChannelsLast));
  }
  Tensor pooled = torch::stable::empty(
      {rois.size(0), channels, side, side}, features[0].scalar_type(), std::nullopt,
      features[0].device(), std::nullopt, MemoryFormat::ChannelsLast);
  if (pooled.numel() > 0) {
    constexpr int wide = 16 / sizeof(T);
    const auto pyramid = pyramid_of<const T, S>(maps, scales);
    bool packed = channels % wide == 0 && aligned_to(data_of<T>(pooled), 16);
    for (const Tensor& map : maps) packed = packed && aligned_to(data_of<T>(map), 16);
    const dim3 block(kWarp, kWarpsPerBlock);
    const unsigned int grid = blocks_for(rois.size(0) * side * side, kWarpsPerBlock);
    const auto kernel = packed ? pool<T, wide> : pool<T, 1>;
    kernel<<<grid, block, 0, current_stream(rois)>>>(
        pyramid, data_of<S>(rois), rois.size(0), options, data_of<T>(pooled));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return is_channels_last(features[0]) ? pooled : torch::stable::contiguous(pooled);
}

template <typename T>
std::vector<Tensor> backward_typed(
    const Tensor& gradient_in, const std::vector<Tensor>& features, const Tensor& rois,
    const std::vector<double>& scales, const RoiAlignOptions& options) {
  using S = Sum<T>;
  const Tensor gradient = torch::stable::contiguous(gradient_in, MemoryFormat::ChannelsLast);
  std::vector<Tensor> sums;
  for (const Tensor& map : features) {
    Tensor zeros = torch::stable::empty(
        map.sizes(), rois.scalar_type(), std::nullopt, map.device(), std::nullopt,
        MemoryFormat::ChannelsLast);
    sums.push_back(torch::stable::zero_(zeros));
  }
  if (gradient.numel() > 0) {
    const int64_t bins = options.output_side * options.output_side;
    spread<T><<<
        blocks_for(rois.size(0) * bins, kWarpsPerBlock), dim3(kWarp, kWarpsPerBlock), 0,
        current_stream(rois)>>>(
        pyramid_of<S, S>(sums, scales), data_of<S>(rois), rois.size(0), options,
        data_of<T>(gradient));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  for (size_t i = 0; i < features.size(); ++i) {
    const auto layout =
        is_channels_last(features[i]) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
    sums[i] = torch::stable::contiguous(
        torch::stable::to(sums[i], features[i].scalar_type()), layout);
  }
  return sums;
}

// Calls run(T()) with the features' type.
template <typename Run>
auto for_type_of(const Tensor& feature, Run run) {
  switch (feature.scalar_type()) {
    case ScalarType::Double:
      return run(double());
    case ScalarType::Half:
      return run(torch::headeronly::Half());
    case ScalarType::BFloat16:
      return run(torch::headeronly::BFloat16());
    default:
      STD_TORCH_CHECK(
          feature.scalar_type() == ScalarType::Float, "features must be floating point");
      return run(float());
  }
}

void check_call(
    const std::vector<Tensor>& features, const Tensor& rois, const std::vector<double>& scales,
    const RoiAlignOptions& options) {
  STD_TORCH_CHECK(!features.empty() && features.size() == scales.size(), "one scale per level");
  STD_TORCH_CHECK(features.size() <= kMaxLevels, "at most ", kMaxLevels, " levels");
  STD_TORCH_CHECK(rois.dim() == 2 && rois.size(1) == 5, "rois must be (R, 5)");
  STD_TORCH_CHECK(options.output_side > 0 && options.sampling_ratio >= 0, "bad output_side");
  const bool is_double = features[0].scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(
      rois.scalar_type() == (is_double ? ScalarType::Double : ScalarType::Float),
      "rois must be float32, float64 only with float64 features");
  for (const Tensor& map : features) {
    STD_TORCH_CHECK(
        map.dim() == 4 && map.size(0) == features[0].size(0) &&
            map.size(1) == features[0].size(1) && map.size(2) > 0 && map.size(3) > 0 &&
            map.scalar_type() == features[0].scalar_type(),
        "features must be (B, C, H, W) and agree on B, C and type");
  }
}

Tensor multiscale_roi_align(
    const std::vector<Tensor>& features, const Tensor& rois_in, const std::vector<double>& scales,
    int64_t output_side, int64_t sampling_ratio, bool aligned, double canonical_side,
    int64_t canonical_level, double trim) {
  const RoiAlignOptions options{
      output_side, sampling_ratio, aligned, canonical_side, canonical_level, trim};
  check_call(features, rois_in, scales, options);
  const auto guard = on_device_of(rois_in);
  const Tensor rois = torch::stable::contiguous(rois_in);
  return for_type_of(features[0], [&](auto type) {
    return forward_typed<decltype(type)>(features, rois, scales, options);
  });
}

std::vector<Tensor> multiscale_roi_align_backward(
    const Tensor& gradient, const std::vector<Tensor>& features, const Tensor& rois_in,
    const std::vector<double>& scales, int64_t output_side, int64_t sampling_ratio, bool aligned,
    double canonical_side, int64_t canonical_level, double trim) {
  const RoiAlignOptions options{
      output_side, sampling_ratio, aligned, canonical_side, canonical_level, trim};
  check_call(features, rois_in, scales, options);
  STD_TORCH_CHECK(
      gradient.dim() == 4 && gradient.size(0) == rois_in.size(0) &&
          gradient.size(1) == features[0].size(1) && gradient.size(2) == output_side &&
          gradient.size(3) == output_side &&
          gradient.scalar_type() == features[0].scalar_type(),
      "gradient must be (R, C, S, S) of the features' type");
  const auto guard = on_device_of(rois_in);
  const Tensor rois = torch::stable::contiguous(rois_in);
  return for_type_of(features[0], [&](auto type) {
    return backward_typed<decltype(type)>(gradient, features, rois, scales, options);
  });
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("multiscale_roi_align", TORCH_BOX(&ops_cuda::gpu::multiscale_roi_align));
  library.impl(
      "multiscale_roi_align_backward", TORCH_BOX(&ops_cuda::gpu::multiscale_roi_align_backward));
}
