// Bias, shortcut and ReLU in one pass: each thread processes packs of 16 bytes. In channels_last
// maps the channel of a thread's next pack follows by addition instead of a division.

#include "../add_bias_relu.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>

#include "floating_types.h"
#include "launch.h"
#include "pack.h"

namespace ops_cuda::gpu {

constexpr int kThreads = 256;
constexpr unsigned int kMaxBlocks = 8192;  // more packs are visited in a loop

// N divides the channels (channels_last) or the elements of a channel (otherwise).
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) add_packs(
    T* __restrict__ x, const SumType<T>* __restrict__ bias, const T* __restrict__ shortcut,
    int64_t count, int64_t channels, int64_t channel_step, bool with_relu) {
  using S = SumType<T>;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads * N;
  const bool last = channel_step == 1;
  int64_t channel = last ? first % channels : 0;
  const int64_t next_channel = last ? stride % channels : 0;
  for (int64_t i = first; i < count; i += stride) {
    if (!last && bias) channel = i / channel_step % channels;
    auto pack = *reinterpret_cast<const Pack<T, N>*>(x + i);
    Pack<T, N> added{};
    if (shortcut) added = *reinterpret_cast<const Pack<T, N>*>(shortcut + i);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      S value = static_cast<S>(pack.values[k]);
      if (bias) value += bias[channel + (last ? k : 0)];
      if (shortcut) value += static_cast<S>(added.values[k]);
      pack.values[k] = static_cast<T>(with_relu ? relu(value) : value);
    }
    *reinterpret_cast<Pack<T, N>*>(x + i) = pack;
    channel += next_channel;
    if (channel >= channels) channel -= channels;
  }
}

template <typename T>
void add_typed(const Tensor& map, const BiasReluArguments& arguments, bool with_relu) {
  constexpr int wide = 16 / sizeof(T);
  T* x = data_pointer<T>(map);
  const T* shortcut = arguments.shortcut ? data_pointer<T>(*arguments.shortcut) : nullptr;
  const auto* bias = arguments.bias ? data_pointer<SumType<T>>(*arguments.bias) : nullptr;
  const int64_t step = arguments.channel_step, channels = arguments.channels;
  const bool packed =
      (step == 1 ? channels : step) % wide == 0 && is_aligned(x, 16) && is_aligned(shortcut, 16);
  const auto kernel = packed ? add_packs<T, wide> : add_packs<T, 1>;
  const int64_t packs = map.numel() / (packed ? wide : 1);
  const unsigned int grid = std::min(kMaxBlocks, blocks_for(packs, kThreads));
  kernel<<<grid, kThreads, 0, current_stream(map)>>>(
      x, bias, shortcut, map.numel(), channels, step, with_relu);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

void add_bias_relu(
    const Tensor& x, const std::optional<Tensor>& bias, const std::optional<Tensor>& shortcut,
    bool with_relu) {
  const auto guard = on_device_of(x);
  const BiasReluArguments arguments(x, bias, shortcut);
  if (x.numel() == 0) return;
  dispatch_floating(x, "x", [&](auto type) {
    add_typed<decltype(type)>(x, arguments, with_relu);
  });
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("add_bias_relu_", TORCH_BOX(&ops_cuda::gpu::add_bias_relu));
}
