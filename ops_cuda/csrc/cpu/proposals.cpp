// Proposals before suppression: the best scores of each row, and their boxes.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

#include "../box_decoding.h"
#include "../proposal_levels.h"
#include "ranking.h"

namespace ops_cuda::cpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The `wanted` best of `count` scores, best first. One pass counts leading digits and so finds a
// digit that no wanted score exceeds; only scores up to it are sorted.
std::vector<Ranked> best_scores(const float* scores, int64_t count, int64_t wanted) {
  std::vector<uint32_t> keys(count);
  std::array<int64_t, kDigits> frequency{};
  for (int64_t i = 0; i < count; ++i) {
    keys[i] = falling_key(scores[i]);
    ++frequency[leading_digit(keys[i])];
  }
  uint32_t digit = 0;
  for (int64_t found = frequency[0]; found < wanted; found += frequency[digit]) ++digit;
  const uint32_t last = digit << (32 - kDigitBits) | ((1u << (32 - kDigitBits)) - 1);
  std::vector<Ranked> best;
  best.reserve(4 * wanted);
  for (int64_t i = 0; i < count; ++i) {
    if (keys[i] <= last) best.push_back({keys[i], static_cast<uint32_t>(i)});
  }
  sort_by_key(best);
  best.resize(wanted);
  return best;
}

std::tuple<Tensor, Tensor> top_scores(const Tensor& scores_in, int64_t count) {
  const Tensor scores = torch::stable::contiguous(scores_in);
  STD_TORCH_CHECK(
      scores.dim() == 2 && scores.scalar_type() == ScalarType::Float,
      "scores must be (B, N) float32");
  STD_TORCH_CHECK(count >= 0, "count must not be negative");
  const int64_t rows = scores.size(0), size = scores.size(1);
  STD_TORCH_CHECK(size <= std::numeric_limits<uint32_t>::max(), size, " scores are too many");
  const int64_t wanted = std::min(count, size);
  Tensor values = torch::stable::new_empty(scores, {rows, wanted});
  Tensor indices = torch::stable::new_empty(scores, {rows, wanted}, ScalarType::Long);
  if (wanted == 0) return {values, indices};
  const float* data = scores.const_data_ptr<float>();
  float* value_data = values.mutable_data_ptr<float>();
  int64_t* index_data = indices.mutable_data_ptr<int64_t>();
  const int64_t grain = std::max<int64_t>(1, 32768 / size);
  torch::stable::parallel_for(0, rows, grain, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const std::vector<Ranked> best = best_scores(data + row * size, size, wanted);
      for (int64_t i = 0; i < wanted; ++i) {
        value_data[row * wanted + i] = data[row * size + best[i].index];
        index_data[row * wanted + i] = best[i].index;
      }
    }
  });
  return {values, indices};
}

// One level of one image: `count` chosen anchors of `anchor_count`.
void decode_level(
    const float* scores, const int64_t* indices, int64_t count, const float* deltas,
    const float* anchors, int64_t anchor_count, const float* limits, const ProposalRules& rules,
    float* boxes, float* decoded_scores) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t anchor = indices[i];
    STD_TORCH_CHECK(
        anchor >= 0 && anchor < anchor_count, "index ", anchor, " of ", anchor_count, " anchors");
    decoded_scores[i] = decode_proposal(
        deltas + 4 * anchor, anchors + 4 * anchor, limits, scores[i], rules, boxes + 4 * i);
  }
}

std::tuple<Tensor, Tensor> decode_proposals(
    const std::vector<Tensor>& scores, const std::vector<Tensor>& indices,
    const std::vector<Tensor>& deltas, const std::vector<Tensor>& anchors, const Tensor& limits_in,
    double min_side, double largest_log_scale, double kept_side) {
  const ProposalRules rules{
      static_cast<float>(min_side), static_cast<float>(largest_log_scale),
      static_cast<float>(kept_side)};
  const Tensor limits = torch::stable::contiguous(limits_in);
  const int64_t images = limits.size(0), levels = scores.size();
  const int64_t longest = check_proposal_levels(scores, indices, deltas, anchors, limits);
  Tensor boxes = torch::stable::new_zeros(limits, {images, levels, longest, 4});
  Tensor decoded = torch::stable::new_empty(limits, {images, levels, longest});
  torch::stable::fill_(decoded, -std::numeric_limits<double>::infinity());
  float* box_data = boxes.mutable_data_ptr<float>();
  float* decoded_data = decoded.mutable_data_ptr<float>();
  for (int64_t level = 0; level < levels; ++level) {
    const Tensor score = torch::stable::contiguous(scores[level]);
    const Tensor index = torch::stable::contiguous(indices[level]);
    const Tensor delta = torch::stable::contiguous(deltas[level]);
    const Tensor anchor = torch::stable::contiguous(anchors[level]);
    const int64_t count = score.size(1), anchor_count = anchor.size(0);
    const float* score_data = score.const_data_ptr<float>();
    const int64_t* index_data = index.const_data_ptr<int64_t>();
    const float* delta_data = delta.const_data_ptr<float>();
    const float* anchor_data = anchor.const_data_ptr<float>();
    const float* limit_data = limits.const_data_ptr<float>();
    for (int64_t image = 0; image < images; ++image) {
      const int64_t row = (image * levels + level) * longest;
      decode_level(
          score_data + image * count, index_data + image * count, count,
          delta_data + 4 * image * anchor_count, anchor_data, anchor_count, limit_data + 4 * image,
          rules, box_data + 4 * row, decoded_data + row);
    }
  }
  return {boxes, decoded};
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("top_scores", TORCH_BOX(&ops_cuda::cpu::top_scores));
  library.impl("decode_proposals", TORCH_BOX(&ops_cuda::cpu::decode_proposals));
}
