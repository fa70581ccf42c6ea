// ROI align over all pyramid levels on channels_last maps: one warp per bin, with the channels
// distributed over its lanes, so that every read of a pixel and every write of a bin is contiguous.
//
// The backward pass accumulates with atomics, in float32 for half types too: the order of the sums,
// and therefore the last bits, may change from run to run.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../roi_align.h"
#include "floating_types.h"
#include "launch.h"
#include "pack.h"
#include "roi_on_level.h"

namespace ops_cuda::gpu {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kWarp = 32, kWarpsPerBlock = 4;

// Vector atomics are new in compute capability 9.0. Tests, which emulate the kernels on the host,
// define this for both ways.
#if !defined(VECTOR_ATOMICS)
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define VECTOR_ATOMICS 0
#else
#define VECTOR_ATOMICS 1
#endif
#endif

// pooled: (R, S, S, C). Each lane processes N channels per step; C is a multiple of N.
template <typename T, int N>
__global__ void __launch_bounds__(kWarp* kWarpsPerBlock) pool(
    const __grid_constant__ Pyramid<const T, SumType<T>> pyramid,
    const SumType<T>* __restrict__ rois, int64_t count,
    const __grid_constant__ RoiAlignOptions options, T* __restrict__ pooled) {
  using S = SumType<T>;
  const int64_t side = options.output_side, bins = side * side, channels = pyramid.channels;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.y;
       item < count * bins; item += warps) {
    const int64_t bin = item % bins;
    const RoiOnLevel<const T, S> roi(rois + 5 * (item / bins), pyramid, options);
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

// Which channels a lane adds to. Vector atomics add four neighboring channels at once; without them,
// neighboring lanes have neighboring channels.
template <typename S>
struct LaneChannels {
  static constexpr int kVector = VECTOR_ATOMICS && std::is_same_v<S, float> ? 4 : 1;
  static constexpr int kPerLane = 8;
  static constexpr int kPerWarp = kWarp * kPerLane;

  // Channel k of a lane, k < kPerLane, after the first channel of the warp.
  static __device__ int64_t at(int lane, int k) {
    return k / kVector * kVector * kWarp + lane * kVector + k % kVector;
  }

  // Adds `weight * values` to the lane's channels of a pixel; there are `channels` in all.
  static __device__ void add(
      S* pixel, int64_t first, int64_t channels, int lane, const S* values, S weight) {
#pragma unroll
    for (int k = 0; k < kPerLane; k += kVector) {
      const int64_t c = first + at(lane, k);
      if (c >= channels) return;
#if VECTOR_ATOMICS
      if constexpr (kVector == 4) {
        if (channels % 4 == 0) {
          atomicAdd(
              reinterpret_cast<float4*>(pixel + c),
              make_float4(
                  weight * values[k], weight * values[k + 1], weight * values[k + 2],
                  weight * values[k + 3]));
          continue;
        }
      }
#endif
      for (int v = 0; v < kVector && c + v < channels; ++v) {
        atomicAdd(pixel + c + v, weight * values[k + v]);
      }
    }
  }
};

// Adds to the maps of the pyramid. gradient: (R, S, S, C).
template <typename T>
__global__ void __launch_bounds__(kWarp* kWarpsPerBlock) accumulate_gradient(
    const __grid_constant__ Pyramid<SumType<T>, SumType<T>> pyramid,
    const SumType<T>* __restrict__ rois, int64_t count,
    const __grid_constant__ RoiAlignOptions options, const T* __restrict__ gradient) {
  using S = SumType<T>;
  using Lane = LaneChannels<S>;
  const int64_t side = options.output_side, bins = side * side, channels = pyramid.channels;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  const int lane = threadIdx.x;
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.y;
       item < count * bins; item += warps) {
    const int64_t bin = item % bins;
    const RoiOnLevel<S, S> roi(rois + 5 * (item / bins), pyramid, options);
    // Up to 256 channels at a time, so that pixels and weights are rarely computed twice.
    for (int64_t first = 0; first < channels; first += Lane::kPerWarp) {
      S values[Lane::kPerLane];
#pragma unroll
      for (int k = 0; k < Lane::kPerLane; ++k) {
        const int64_t c = first + Lane::at(lane, k);
        values[k] = c < channels ? static_cast<S>(gradient[item * channels + c]) : S(0);
      }
      visit_pixels(roi, bin / side, bin % side, channels, S(), [&](int64_t offset, S weight) {
        Lane::add(roi.image + offset, first, channels, lane, values, weight);
      });
    }
  }
}

template <typename Map, typename S>
Pyramid<Map, S> make_pyramid(const std::vector<Tensor>& maps, const std::vector<double>& scales) {
  Pyramid<Map, S> pyramid{};
  pyramid.levels = static_cast<int64_t>(maps.size());
  pyramid.finest = std::llround(-std::log2(scales[0]));
  pyramid.images = maps[0].size(0);
  pyramid.channels = maps[0].size(1);
  for (size_t i = 0; i < maps.size(); ++i) {
    pyramid.maps[i] = data_pointer<std::remove_const_t<Map>>(maps[i]);
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
  using S = SumType<T>;
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
    const auto pyramid = make_pyramid<const T, S>(maps, scales);
    bool packed = channels % wide == 0 && is_aligned(data_pointer<T>(pooled), 16);
    for (const Tensor& map : maps) packed = packed && is_aligned(data_pointer<T>(map), 16);
    const dim3 block(kWarp, kWarpsPerBlock);
    const unsigned int grid = blocks_for(rois.size(0) * side * side, kWarpsPerBlock);
    const auto kernel = packed ? pool<T, wide> : pool<T, 1>;
    kernel<<<grid, block, 0, current_stream(rois)>>>(
        pyramid, data_pointer<S>(rois), rois.size(0), options, data_pointer<T>(pooled));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return is_channels_last(features[0]) ? pooled : torch::stable::contiguous(pooled);
}

template <typename T>
std::vector<Tensor> backward_typed(
    const Tensor& gradient_in, const std::vector<Tensor>& features, const Tensor& rois,
    const std::vector<double>& scales, const RoiAlignOptions& options) {
  using S = SumType<T>;
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
    accumulate_gradient<T><<<
        blocks_for(rois.size(0) * bins, kWarpsPerBlock), dim3(kWarp, kWarpsPerBlock), 0,
        current_stream(rois)>>>(
        make_pyramid<S, S>(sums, scales), data_pointer<S>(rois), rois.size(0), options,
        data_pointer<T>(gradient));
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

void check_arguments(
    const std::vector<Tensor>& features, const Tensor& rois, const std::vector<double>& scales,
    const RoiAlignOptions& options) {
  check_roi_align(features, rois, scales, options);
  STD_TORCH_CHECK(features.size() <= kMaxLevels, "at most ", kMaxLevels, " levels");
}

Tensor multiscale_roi_align(
    const std::vector<Tensor>& features, const Tensor& rois_in, const std::vector<double>& scales,
    int64_t output_side, int64_t sampling_ratio, bool aligned, double canonical_side,
    int64_t canonical_level, double far_corner_inset) {
  const RoiAlignOptions options{
      output_side, sampling_ratio, aligned, canonical_side, canonical_level, far_corner_inset};
  check_arguments(features, rois_in, scales, options);
  const auto guard = on_device_of(rois_in);
  const Tensor rois = torch::stable::contiguous(rois_in);
  return dispatch_floating(features[0], "features", [&](auto type) {
    return forward_typed<decltype(type)>(features, rois, scales, options);
  });
}

std::vector<Tensor> multiscale_roi_align_backward(
    const Tensor& gradient, const std::vector<Tensor>& features, const Tensor& rois_in,
    const std::vector<double>& scales, int64_t output_side, int64_t sampling_ratio, bool aligned,
    double canonical_side, int64_t canonical_level, double far_corner_inset) {
  const RoiAlignOptions options{
      output_side, sampling_ratio, aligned, canonical_side, canonical_level, far_corner_inset};
  check_arguments(features, rois_in, scales, options);
  check_roi_gradient(gradient, features, rois_in, options);
  const auto guard = on_device_of(rois_in);
  const Tensor rois = torch::stable::contiguous(rois_in);
  return dispatch_floating(features[0], "features", [&](auto type) {
    return backward_typed<decltype(type)>(gradient, features, rois, scales, options);
  });
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("multiscale_roi_align", TORCH_BOX(&ops_cuda::gpu::multiscale_roi_align));
  library.impl(
      "multiscale_roi_align_backward", TORCH_BOX(&ops_cuda::gpu::multiscale_roi_align_backward));
}
