// The highest scores of each row, in the order of a stable sort.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

#include "ranking.h"

namespace ops_cuda::cpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Returns the `k` highest of `count` scores, in order. One pass counts leading digits of the keys,
// which gives a bound on the digit of the k-th key; only keys up to it are sorted.
std::vector<Ranked> top_of_row(const float* scores, int64_t count, int64_t k) {
  std::vector<uint32_t> keys(count);
  std::array<int64_t, kDigits> frequency{};
  for (int64_t i = 0; i < count; ++i) {
    keys[i] = descending_key(scores[i]);
    ++frequency[leading_digit(keys[i])];
  }
  uint32_t digit = 0;
  for (int64_t covered = frequency[0]; covered < k; covered += frequency[digit]) ++digit;
  const uint32_t last = digit << (32 - kDigitBits) | ((1u << (32 - kDigitBits)) - 1);
  std::vector<Ranked> top;
  top.reserve(4 * k);
  for (int64_t i = 0; i < count; ++i) {
    if (keys[i] <= last) top.push_back({keys[i], static_cast<uint32_t>(i)});
  }
  sort_by_key(top);
  top.resize(k);
  return top;
}

std::tuple<Tensor, Tensor> stable_topk(const Tensor& scores_in, int64_t k) {
  const Tensor scores = torch::stable::contiguous(scores_in);
  STD_TORCH_CHECK(
      scores.dim() == 2 && scores.scalar_type() == ScalarType::Float,
      "scores must be (B, N) float32");
  STD_TORCH_CHECK(k >= 0, "k must not be negative");
  const int64_t rows = scores.size(0), size = scores.size(1), kept = std::min(k, size);
  STD_TORCH_CHECK(size <= std::numeric_limits<uint32_t>::max(), size, " scores are too many");
  Tensor values = torch::stable::new_empty(scores, {rows, kept});
  Tensor indices = torch::stable::new_empty(scores, {rows, kept}, ScalarType::Long);
  if (kept == 0) return {values, indices};
  const float* data = scores.const_data_ptr<float>();
  float* value_data = values.mutable_data_ptr<float>();
  int64_t* index_data = indices.mutable_data_ptr<int64_t>();
  const int64_t grain = std::max<int64_t>(1, 32768 / size);
  torch::stable::parallel_for(0, rows, grain, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const std::vector<Ranked> top = top_of_row(data + row * size, size, kept);
      for (int64_t i = 0; i < kept; ++i) {
        value_data[row * kept + i] = data[row * size + top[i].index];
        index_data[row * kept + i] = top[i].index;
      }
    }
  });
  return {values, indices};
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("stable_topk", TORCH_BOX(&ops_cuda::cpu::stable_topk));
}
