// Bias, shortcut and ReLU in one pass over the map, in runs that share a bias or span all channels.

#include "../add_bias_relu.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>

#include "simd.h"

namespace ops_cuda::cpu {

using torch::headeronly::ScalarType;

// bias: one value per element, or a single one if `shared_bias`; may be null, as may shortcut.
template <typename T>
SHARED_INLINE void add_run_body(
    T* __restrict x, const T* __restrict bias, bool shared_bias, const T* __restrict shortcut,
    bool with_relu, int64_t count) {
  const T constant = bias && shared_bias ? *bias : T(0);
  const T* each = shared_bias ? nullptr : bias;
  const T lowest = with_relu ? T(0) : -std::numeric_limits<T>::infinity();
  for (int64_t i = 0; i < count; ++i) {
    T value = x[i] + (each ? each[i] : constant);
    if (shortcut) value += shortcut[i];
    x[i] = value < lowest ? lowest : value;
  }
}

MULTIVERSION void add_run(
    float* x, const float* bias, bool shared_bias, const float* shortcut, bool with_relu,
    int64_t count) {
  add_run_body(x, bias, shared_bias, shortcut, with_relu, count);
}

MULTIVERSION void add_run(
    double* x, const double* bias, bool shared_bias, const double* shortcut, bool with_relu,
    int64_t count) {
  add_run_body(x, bias, shared_bias, shortcut, with_relu, count);
}

template <typename T>
void add_typed(const Tensor& map, const BiasReluArguments& arguments, bool with_relu) {
  T* x = map.mutable_data_ptr<T>();
  const T* bias = arguments.bias ? arguments.bias->const_data_ptr<T>() : nullptr;
  const T* shortcut = arguments.shortcut ? arguments.shortcut->const_data_ptr<T>() : nullptr;
  const int64_t total = map.numel();
  // Without a bias nothing depends on the channel, and the whole map is one run.
  const bool shared = bias && arguments.channel_step > 1;
  const int64_t run = !bias ? total : shared ? arguments.channel_step : arguments.channels;
  constexpr int64_t grain = 1 << 15;  // elements
  torch::stable::parallel_for(0, total, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end;) {
      const int64_t within = i % run, count = std::min(run - within, end - i);
      const T* run_bias = !bias ? nullptr : bias + (shared ? i / run % arguments.channels : within);
      add_run(x + i, run_bias, shared, shortcut ? shortcut + i : nullptr, with_relu, count);
      i += count;
    }
  });
}

void add_bias_relu(
    const Tensor& x, const std::optional<Tensor>& bias, const std::optional<Tensor>& shortcut,
    bool with_relu) {
  const BiasReluArguments arguments(x, bias, shortcut);
  if (x.numel() == 0) return;
  if (x.scalar_type() == ScalarType::Double) return add_typed<double>(x, arguments, with_relu);
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, "x must be float32 or float64 on the CPU");
  add_typed<float>(x, arguments, with_relu);
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("add_bias_relu_", TORCH_BOX(&ops_cuda::cpu::add_bias_relu));
}
