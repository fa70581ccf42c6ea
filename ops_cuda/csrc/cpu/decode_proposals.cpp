// Decoding of selected anchors to proposals.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

#include "../decode_proposals.h"

namespace ops_cuda::cpu {

using torch::stable::Tensor;

// Decodes one level of one image: `count` selected anchors of `anchor_count`.
void decode_level(
    const float* scores, const int64_t* indices, int64_t count, const float* deltas,
    const float* anchors, int64_t anchor_count, const float* limits, const DecodingOptions& options,
    float* boxes, float* decoded_scores) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t anchor = indices[i];
    STD_TORCH_CHECK(
        anchor >= 0 && anchor < anchor_count, "index ", anchor, " is out of range of ",
        anchor_count, " anchors");
    decoded_scores[i] = decode_proposal(
        deltas + 4 * anchor, anchors + 4 * anchor, limits, scores[i], options, boxes + 4 * i);
  }
}

std::tuple<Tensor, Tensor> decode_proposals(
    const std::vector<Tensor>& scores, const std::vector<Tensor>& indices,
    const std::vector<Tensor>& deltas, const std::vector<Tensor>& anchors, const Tensor& limits_in,
    double min_side, double max_log_scale, double min_clipped_side) {
  const DecodingOptions options(min_side, max_log_scale, min_clipped_side);
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
          options, box_data + 4 * row, decoded_data + row);
    }
  }
  return {boxes, decoded};
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("decode_proposals", TORCH_BOX(&ops_cuda::cpu::decode_proposals));
}
