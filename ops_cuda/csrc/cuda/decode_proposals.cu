// Decoding of selected anchors to proposals, on all levels in one launch.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

#include "../decode_proposals.h"
#include "launch.h"

namespace ops_cuda::gpu {

using torch::stable::Tensor;

constexpr int kMaxProposalLevels = 8;
constexpr int kDecodeThreads = 256;

struct Candidates {
  const float* scores[kMaxProposalLevels];
  const int64_t* indices[kMaxProposalLevels];
  const float* deltas[kMaxProposalLevels];
  const float* anchors[kMaxProposalLevels];
  int64_t counts[kMaxProposalLevels];         // candidates of an image on the level
  int64_t anchor_counts[kMaxProposalLevels];  // anchors of the level
  int64_t images, levels, longest;
};

// One thread per candidate of the output, (images, levels, longest).
__global__ void __launch_bounds__(kDecodeThreads) decode(
    Candidates candidates, const float* __restrict__ limits, DecodingOptions options,
    float* __restrict__ boxes, float* __restrict__ scores) {
  const int64_t total = candidates.images * candidates.levels * candidates.longest;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kDecodeThreads + threadIdx.x; i < total;
       i += static_cast<int64_t>(gridDim.x) * kDecodeThreads) {
    const int64_t column = i % candidates.longest, row = i / candidates.longest;
    const int64_t level = row % candidates.levels, image = row / candidates.levels;
    float box[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    float score = -std::numeric_limits<float>::infinity();
    if (column < candidates.counts[level]) {
      const int64_t source = image * candidates.counts[level] + column;
      const int64_t anchors = candidates.anchor_counts[level];
      const int64_t anchor = candidates.indices[level][source];
      if (anchor >= 0 && anchor < anchors) {
        score = decode_proposal(
            candidates.deltas[level] + 4 * (image * anchors + anchor),
            candidates.anchors[level] + 4 * anchor, limits + 4 * image,
            candidates.scores[level][source], options, box);
      }
    }
    for (int k = 0; k < 4; ++k) boxes[4 * i + k] = box[k];
    scores[i] = score;
  }
}

std::tuple<Tensor, Tensor> decode_proposals(
    const std::vector<Tensor>& scores, const std::vector<Tensor>& indices,
    const std::vector<Tensor>& deltas, const std::vector<Tensor>& anchors, const Tensor& limits_in,
    double min_side, double max_log_scale, double min_clipped_side) {
  const Tensor limits = torch::stable::contiguous(limits_in);
  const int64_t longest = check_proposal_levels(scores, indices, deltas, anchors, limits);
  const int64_t images = limits.size(0), levels = scores.size();
  STD_TORCH_CHECK(levels <= kMaxProposalLevels, "at most ", kMaxProposalLevels, " levels");
  const auto guard = on_device_of(limits);
  std::vector<Tensor> contiguous;  // keeps the tensors alive until the launch
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
  const DecodingOptions options(min_side, max_log_scale, min_clipped_side);
  const unsigned int blocks = blocks_for(decoded.numel(), kDecodeThreads);
  decode<<<blocks, kDecodeThreads, 0, current_stream(limits)>>>(
      candidates, limits.const_data_ptr<float>(), options, boxes.mutable_data_ptr<float>(),
      decoded.mutable_data_ptr<float>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {boxes, decoded};
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("decode_proposals", TORCH_BOX(&ops_cuda::gpu::decode_proposals));
}
