// The boxes of chosen anchors, on all levels in one launch.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

#include "../box_decoding.h"
#include "../proposal_levels.h"
#include "launch.h"

namespace ops_cuda::gpu {

using torch::stable::Tensor;

constexpr int kMostLevels = 8;
constexpr int kThreads = 256;

struct Candidates {
  const float* scores[kMostLevels];
  const int64_t* indices[kMostLevels];
  const float* deltas[kMostLevels];
  const float* anchors[kMostLevels];
  int64_t counts[kMostLevels];         // candidates of an image on the level
  int64_t anchor_counts[kMostLevels];  // anchors of the level
  int64_t images, levels, longest;
};

// One thread per candidate of the output, (images, levels, longest).
__global__ void __launch_bounds__(kThreads) decode(
    Candidates candidates, const float* __restrict__ limits, ProposalRules rules,
    float* __restrict__ boxes, float* __restrict__ scores) {
  const int64_t total = candidates.images * candidates.levels * candidates.longest;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < total;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t column = i % candidates.longest, row = i / candidates.longest;
    const int64_t level = row % candidates.levels, image = row / candidates.levels;
    float box[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    float score = -std::numeric_limits<float>::infinity();
    if (column < candidates.counts[level]) {
      const int64_t from = image * candidates.counts[level] + column;
      const int64_t anchors = candidates.anchor_counts[level];
      const int64_t anchor = candidates.indices[level][from];
      if (anchor >= 0 && anchor < anchors) {
        score = decode_proposal(
            candidates.deltas[level] + 4 * (image * anchors + anchor),
            candidates.anchors[level] + 4 * anchor, limits + 4 * image,
            candidates.scores[level][from], rules, box);
      }
    }
    for (int k = 0; k < 4; ++k) boxes[4 * i + k] = box[k];
    scores[i] = score;
  }
}

std::tuple<Tensor, Tensor> decode_proposals(
    const std::vector<Tensor>& scores, const std::vector<Tensor>& indices,
    const std::vector<Tensor>& deltas, const std::vector<Tensor>& anchors, const Tensor& limits_in,
    double min_side, double largest_log_scale, double kept_side) {
  const Tensor limits = torch::stable::contiguous(limits_in);
  const int64_t longest = check_proposal_levels(scores, indices, deltas, anchors, limits);
  const int64_t images = limits.size(0), levels = scores.size();
  STD_TORCH_CHECK(levels <= kMostLevels, "at most ", kMostLevels, " levels");
  const auto guard = on_device_of(limits);
  std::vector<Tensor> contiguous;  // lives until the launch
  const auto keep = [&](const Tensor& tensor) {
    contiguous.push_back(torch::stable::contiguous(tensor));
    return contiguous.back();
  };
  Candidates candidates{};
  candidates.images = images;
  candidates.levels = levels;
  candidates.longest = longest;
  for (int64_t level = 0; level < levels; ++level) {
    candidates.scores[level] = keep(scores[level]).const_data_ptr<float>();
    candidates.indices[level] = keep(indices[level]).const_data_ptr<int64_t>();
    candidates.deltas[level] = keep(deltas[level]).const_data_ptr<float>();
    candidates.anchors[level] = keep(anchors[level]).const_data_ptr<float>();
    candidates.counts[level] = scores[level].size(1);
    candidates.anchor_counts[level] = anchors[level].size(0);
  }
  Tensor boxes = torch::stable::new_empty(limits, {images, levels, longest, 4});
  Tensor decoded = torch::stable::new_empty(limits, {images, levels, longest});
  if (decoded.numel() == 0) return {boxes, decoded};
  const ProposalRules rules{
      static_cast<float>(min_side), static_cast<float>(largest_log_scale),
      static_cast<float>(kept_side)};
  decode<<<blocks_for(decoded.numel(), kThreads), kThreads, 0, current_stream(limits)>>>(
      candidates, limits.const_data_ptr<float>(), rules, boxes.mutable_data_ptr<float>(),
      decoded.mutable_data_ptr<float>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {boxes, decoded};
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("decode_proposals", TORCH_BOX(&ops_cuda::gpu::decode_proposals));
}
