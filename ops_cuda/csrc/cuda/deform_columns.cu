// Sampling of a deformable convolution and its gradient, on channels_last maps: one warp per tap
// and group of an output cell, with the channels distributed over its lanes, so that every read of
// a pixel and every write of a column is contiguous.
//
// The gradient of the map is accumulated with atomics, in float32 for half types too: the order of
// the sums, and therefore the last bits, may change from run to run.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../deform_columns.h"
#include "floating_types.h"
#include "launch.h"

namespace ops_cuda::gpu {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kWarpLanes = 32, kWarps = 4;

// Work item of a warp: one tap of one group at one output cell.
struct TapItem {
  int64_t image, cell, tap, group;

  SHARED_INLINE TapItem(const DeformShape& shape, int64_t item) {
    group = item % shape.groups;
    tap = item / shape.groups % shape.taps();
    const int64_t output_cell = item / (shape.groups * shape.taps());
    cell = output_cell % shape.cells();
    image = output_cell / shape.cells();
  }

  // Offset of the item's channels in a map, without its pixel, and in the columns.
  SHARED_INLINE int64_t map_offset(const DeformShape& shape) const {
    return image * shape.height * shape.width * shape.channels + group * shape.group_channels();
  }
  SHARED_INLINE int64_t column_offset(const DeformShape& shape) const {
    return ((image * shape.cells() + cell) * shape.taps() + tap) * shape.channels +
           group * shape.group_channels();
  }
};

// T is the type of the map, S that of offsets, modulation and sums. modulation may be null.
template <typename T, typename S>
__global__ void __launch_bounds__(kWarpLanes* kWarps) read_taps(
    const __grid_constant__ DeformShape shape, const T* __restrict__ map,
    const S* __restrict__ offsets, const S* __restrict__ modulation, int64_t items,
    T* __restrict__ columns) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y; i < items;
       i += warps) {
    const TapItem item(shape, i);
    const auto point = locate_tap(shape, offsets, item.image, item.group, item.tap, item.cell);
    const S factor = modulation ? modulation[modulation_index(
                                      shape, item.image, item.group, item.tap, item.cell)]
                                : S(1);
    const T* pixels = map + item.map_offset(shape);
    T* column = columns + item.column_offset(shape);
    for (int64_t c = threadIdx.x; c < shape.group_channels(); c += kWarpLanes) {
      S sum = 0;
      for (int corner = 0; corner < 4; ++corner) {
        if (!point.inside[corner]) continue;
        sum += point.weight(corner) * factor *
               static_cast<S>(pixels[point.pixel[corner] * shape.channels + c]);
      }
      column[c] = static_cast<T>(sum);
    }
  }
}

// Adds to the gradient of the map and writes those of offsets and modulation; the latter may be
// null.
template <typename T, typename S>
__global__ void __launch_bounds__(kWarpLanes* kWarps) accumulate_gradients(
    const __grid_constant__ DeformShape shape, const T* __restrict__ gradient,
    const T* __restrict__ map, const S* __restrict__ offsets, const S* __restrict__ modulation,
    int64_t items, S* __restrict__ map_gradient, S* __restrict__ offset_gradient,
    S* __restrict__ modulation_gradient) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarps;
  // All warps of a block take the same number of iterations, because warp_sum synchronizes the
  // whole block when the kernels are emulated on the host.
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kWarps; first < items; first += warps) {
    const bool active = first + threadIdx.y < items;
    const TapItem item(shape, active ? first + threadIdx.y : first);
    const int64_t index =
        modulation_index(shape, item.image, item.group, item.tap, item.cell);
    const auto point = locate_tap(shape, offsets, item.image, item.group, item.tap, item.cell);
    const S factor = modulation ? modulation[index] : S(1);
    const int64_t start = item.map_offset(shape);
    S products[4] = {};
    for (int64_t c = threadIdx.x; active && c < shape.group_channels(); c += kWarpLanes) {
      const S incoming = static_cast<S>(gradient[item.column_offset(shape) + c]);
      for (int corner = 0; corner < 4; ++corner) {
        if (!point.inside[corner]) continue;
        const int64_t pixel = start + point.pixel[corner] * shape.channels + c;
        products[corner] += incoming * static_cast<S>(map[pixel]);
        atomicAdd(map_gradient + pixel, incoming * point.weight(corner) * factor);
      }
    }
    for (int corner = 0; corner < 4; ++corner) products[corner] = warp_sum(products[corner]);
    if (!active || threadIdx.x != 0) continue;
    const TapGradient<S> derivative(point, products);
    const int64_t tap_start =
        2 * modulation_index(shape, item.image, item.group, item.tap, 0) + item.cell;
    offset_gradient[tap_start] = derivative.down * factor;
    offset_gradient[tap_start + shape.cells()] = derivative.right * factor;
    if (modulation_gradient) modulation_gradient[index] = derivative.value;
  }
}

template <typename T>
const T* read_only(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* writable(Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Checked arguments in the layout that the kernels read, offsets and modulation in the type of the
// sums.
template <typename T>
struct DeformCall {
  using S = SumType<T>;
  DeformShape shape;
  Tensor map, offsets, modulation;
  bool has_modulation;
  ScalarType offset_type, modulation_type;

  DeformCall(
      const Tensor& x, const Tensor& offsets_in, const std::optional<Tensor>& modulation_in,
      const std::vector<int64_t>& geometry)
      : shape(check_deform(x, offsets_in, modulation_in, geometry)),
        map(torch::stable::contiguous(x, MemoryFormat::ChannelsLast)),
        offsets(to_sum_type(offsets_in)),
        modulation(to_sum_type(modulation_in.value_or(offsets_in))),
        has_modulation(modulation_in.has_value()),
        offset_type(offsets_in.scalar_type()),
        modulation_type(modulation_in.value_or(offsets_in).scalar_type()) {}

  static Tensor to_sum_type(const Tensor& tensor) {
    const auto type = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
    return torch::stable::contiguous(torch::stable::to(tensor, type));
  }
  const S* modulation_data() const { return has_modulation ? read_only<S>(modulation) : nullptr; }
  int64_t items() const { return shape.images * shape.cells() * shape.taps() * shape.groups; }
};

template <typename T>
Tensor forward_typed(const DeformCall<T>& call) {
  using S = SumType<T>;
  const DeformShape& shape = call.shape;
  Tensor columns = torch::stable::empty(
      {shape.images, shape.out_height, shape.out_width, shape.taps(), shape.channels},
      call.map.scalar_type(), std::nullopt, call.map.device());
  if (columns.numel() == 0) return columns;
  const auto kernel = read_taps<T, S>;
  kernel<<<
      blocks_for(call.items(), kWarps), dim3(kWarpLanes, kWarps), 0, current_stream(call.map)>>>(
      shape, read_only<T>(call.map), read_only<S>(call.offsets), call.modulation_data(),
      call.items(), writable<T>(columns));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return columns;
}

Tensor empty_like(const Tensor& tensor, MemoryFormat layout) {
  return torch::stable::empty(
      tensor.sizes(), tensor.scalar_type(), std::nullopt, tensor.device(), std::nullopt, layout);
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor> backward_typed(
    const Tensor& gradient_in, const DeformCall<T>& call) {
  using S = SumType<T>;
  const Tensor gradient = torch::stable::contiguous(gradient_in);
  Tensor map = torch::stable::empty(
      call.map.sizes(), call.offsets.scalar_type(), std::nullopt, call.map.device(), std::nullopt,
      MemoryFormat::ChannelsLast);
  torch::stable::zero_(map);
  Tensor offsets = empty_like(call.offsets, MemoryFormat::Contiguous);
  Tensor modulation = call.has_modulation
      ? empty_like(call.modulation, MemoryFormat::Contiguous)
      : torch::stable::empty({0}, offsets.scalar_type(), std::nullopt, offsets.device());
  if (call.items() > 0) {
    const auto kernel = accumulate_gradients<T, S>;
    kernel<<<
        blocks_for(call.items(), kWarps), dim3(kWarpLanes, kWarps), 0,
        current_stream(call.map)>>>(
        call.shape, read_only<T>(gradient), read_only<T>(call.map), read_only<S>(call.offsets),
        call.modulation_data(), call.items(), writable<S>(map), writable<S>(offsets),
        call.has_modulation ? writable<S>(modulation) : nullptr);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {
      torch::stable::to(map, call.map.scalar_type()), torch::stable::to(offsets, call.offset_type),
      torch::stable::to(modulation, call.modulation_type)};
}

Tensor deform_columns(
    const Tensor& x, const Tensor& offsets, const std::optional<Tensor>& modulation,
    const std::vector<int64_t>& geometry) {
  const auto guard = on_device_of(x);
  return dispatch_floating(x, "x", [&](auto type) {
    return forward_typed(DeformCall<decltype(type)>(x, offsets, modulation, geometry));
  });
}

std::tuple<Tensor, Tensor, Tensor> deform_columns_backward(
    const Tensor& gradient, const Tensor& x, const Tensor& offsets,
    const std::optional<Tensor>& modulation, const std::vector<int64_t>& geometry) {
  const DeformShape shape = check_deform(x, offsets, modulation, geometry);
  check_deform_gradient(gradient, x, shape);
  const auto guard = on_device_of(x);
  return dispatch_floating(x, "x", [&](auto type) {
    return backward_typed(
        gradient, DeformCall<decltype(type)>(x, offsets, modulation, geometry));
  });
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("deform_columns", TORCH_BOX(&ops_cuda::gpu::deform_columns));
  library.impl("deform_columns_backward", TORCH_BOX(&ops_cuda::gpu::deform_columns_backward));
}
