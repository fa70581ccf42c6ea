// Which true box each candidate overlaps most, without the matrix of all overlaps.
//
// Candidates are taken 64 at a time, as columns. Neighbours in the list are mostly neighbours in
// the image (anchors are), so the box around a block rules out nearly all true boxes at once.
// A second pass finds the candidates that tie for the best of a true box; it visits only blocks
// that reach as high as that best.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <mutex>
#include <tuple>
#include <vector>

#include "../match_rules.h"
#include "offsets.h"
#include "simd.h"

namespace ops_cuda::cpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kBlock = 64;
constexpr int64_t kPeaks = 16;  // partial maxima, so that the search for a maximum is vectorised

struct TruthColumns {
  std::vector<float> x1, y1, x2, y2, area;

  TruthColumns(const float* boxes, int64_t count)
      : x1(count), y1(count), x2(count), y2(count), area(count) {
    for (int64_t i = 0; i < count; ++i) {
      const float* box = boxes + 4 * i;
      x1[i] = box[0];
      y1[i] = box[1];
      x2[i] = box[2];
      y2[i] = box[3];
      area[i] = box_area(box);
    }
  }
};

// 64 candidates as columns, and the box around them. NaN widens nothing.
struct CandidateBlock {
  float x1[kBlock], y1[kBlock], x2[kBlock], y2[kBlock], area[kBlock];
  float left, top, right, bottom;
};

MULTIVERSION void load_block(const float* boxes, int64_t count, CandidateBlock& block) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nowhere[4] = {infinity, infinity, -infinity, -infinity};
  block.left = block.top = infinity;
  block.right = block.bottom = -infinity;
  for (int64_t i = 0; i < kBlock; ++i) {
    const float* box = i < count ? boxes + 4 * i : nowhere;
    block.x1[i] = box[0];
    block.y1[i] = box[1];
    block.x2[i] = box[2];
    block.y2[i] = box[3];
    block.area[i] = box_area(box);
    block.left = box[0] < block.left ? box[0] : block.left;
    block.top = box[1] < block.top ? box[1] : block.top;
    block.right = box[2] > block.right ? box[2] : block.right;
    block.bottom = box[3] > block.bottom ? box[3] : block.bottom;
  }
}

// Lists the true boxes in [first, last) that touch the block; how many.
MULTIVERSION int64_t list_near(
    const CandidateBlock& block, const TruthColumns& truths, int64_t first, int64_t last,
    int64_t* near) {
  int64_t count = 0;
  for (int64_t t = first; t < last; ++t) {
    near[count] = t;
    count += int(truths.x1[t] < block.right) & int(truths.x2[t] > block.left) &
             int(truths.y1[t] < block.bottom) & int(truths.y2[t] > block.top);
  }
  return count;
}

// The overlap of every candidate with one true box; false where all are zero.
SHARED_INLINE bool overlaps(
    const CandidateBlock& block, const TruthColumns& truths, int64_t truth, float* overlap) {
  const float box[4] = {truths.x1[truth], truths.y1[truth], truths.x2[truth], truths.y2[truth]};
  const float area = truths.area[truth];
  int any = 0;
  for (int64_t i = 0; i < kBlock; ++i) {
    overlap[i] = shared_area(box, block.x1[i], block.y1[i], block.x2[i], block.y2[i]);
    any |= overlap[i] > 0.0f;
  }
  if (!any) return false;
  for (int64_t i = 0; i < kBlock; ++i) {
    overlap[i] = overlap[i] / (area + block.area[i] - overlap[i]);
  }
  return true;
}

// Each candidate's largest overlap and its true box, and each true box's largest overlap so far.
MULTIVERSION void match_block(
    const CandidateBlock& block, const TruthColumns& truths, const int64_t* near, int64_t count,
    int64_t first, float* __restrict best, int32_t* __restrict matched, float* best_of_truth) {
  for (int64_t n = 0; n < count; ++n) {
    float overlap[kBlock], peaks[kPeaks] = {};
    if (!overlaps(block, truths, near[n], overlap)) continue;
    const int32_t index = static_cast<int32_t>(near[n] - first);
    for (int64_t i = 0; i < kBlock; ++i) {
      const bool better = overlap[i] > best[i];  // false for NaN
      best[i] = better ? overlap[i] : best[i];
      matched[i] = better ? index : matched[i];
    }
    for (int64_t i = 0; i < kBlock; i += kPeaks) {
      for (int64_t p = 0; p < kPeaks; ++p) {
        peaks[p] = overlap[i + p] > peaks[p] ? overlap[i + p] : peaks[p];
      }
    }
    for (const float peak : peaks) {
      best_of_truth[near[n]] = peak > best_of_truth[near[n]] ? peak : best_of_truth[near[n]];
    }
  }
}

// Marks the candidates that overlap a true box as much as any candidate does.
MULTIVERSION void find_ties(
    const CandidateBlock& block, const TruthColumns& truths, const int64_t* near, int64_t count,
    const float* best_of_truth, float highest, int32_t* __restrict ties) {
  for (int64_t n = 0; n < count; ++n) {
    const float wanted = best_of_truth[near[n]];
    float overlap[kBlock];
    if (!(wanted > 0.0f && wanted <= highest)) continue;
    if (!overlaps(block, truths, near[n], overlap)) continue;
    for (int64_t i = 0; i < kBlock; ++i) ties[i] |= overlap[i] == wanted;
  }
}

struct MatchTask {
  const float* candidates;
  int64_t stride;  // floats from one image's candidates to the next's; 0 where they share them
  int64_t images, count;
  const TruthColumns& truths;
  const int64_t* offsets;
  MatchThresholds thresholds;
  int64_t *truth, *verdict;  // (images, count)
};

// Walks over blocks of candidates, image after image, with buffers of its own.
class BlockWalk {
 public:
  explicit BlockWalk(const MatchTask& task)
      : task_(task), blocks_(blocks_of(task)), near_(task.truths.area.size()) {}

  static int64_t blocks_of(const MatchTask& task) { return (task.count + kBlock - 1) / kBlock; }

  void go_to(int64_t item) {
    const int64_t image = item / blocks_, start = item % blocks_ * kBlock;
    first_truth = task_.offsets[image];
    last_truth = task_.offsets[image + 1];
    size = std::min(kBlock, task_.count - start);
    output = image * task_.count + start;
    source_ = task_.candidates + image * task_.stride + 4 * start;
  }

  // Reads the block and lists the true boxes near it; how many.
  int64_t look() {
    load_block(source_, size, block);
    return list_near(block, task_.truths, first_truth, last_truth, near_.data());
  }

  const int64_t* near() const { return near_.data(); }

  CandidateBlock block;
  int64_t first_truth, last_truth, size, output;

 private:
  const MatchTask& task_;
  int64_t blocks_;
  std::vector<int64_t> near_;
  const float* source_;
};

// Matches blocks [begin, end); the largest overlap of each block and each true box among them.
std::vector<float> match_blocks(
    const MatchTask& task, int64_t begin, int64_t end, float* highest_of_block) {
  std::vector<float> best_of_truth(task.truths.area.size(), 0.0f);
  BlockWalk walk(task);
  for (int64_t item = begin; item < end; ++item) {
    walk.go_to(item);
    const bool alone = walk.first_truth == walk.last_truth;
    float best[kBlock] = {};
    int32_t matched[kBlock] = {};
    const int64_t near = walk.look();
    match_block(
        walk.block, task.truths, walk.near(), near, walk.first_truth, best, matched,
        best_of_truth.data());
    for (int64_t i = 0; i < walk.size; ++i) {
      task.truth[walk.output + i] = matched[i];
      task.verdict[walk.output + i] = alone ? kNegative : task.thresholds.judge(best[i]);
    }
    highest_of_block[item] = *std::max_element(best, best + kBlock);
  }
  return best_of_truth;
}

// Makes the best candidates of each true box in blocks [begin, end) positive.
void keep_best_of_each_truth(
    const MatchTask& task, int64_t begin, int64_t end, const float* highest_of_block,
    const float* best_of_truth) {
  BlockWalk walk(task);
  for (int64_t item = begin; item < end; ++item) {
    walk.go_to(item);
    // without reading the block: most reach no true box's best
    const bool may_tie = std::any_of(
        best_of_truth + walk.first_truth, best_of_truth + walk.last_truth,
        [&](float best) { return best > 0.0f && best <= highest_of_block[item]; });
    if (!may_tie) continue;
    int32_t ties[kBlock] = {};
    const int64_t near = walk.look();
    find_ties(
        walk.block, task.truths, walk.near(), near, best_of_truth, highest_of_block[item], ties);
    for (int64_t i = 0; i < walk.size; ++i) {
      if (ties[i]) task.verdict[walk.output + i] = kPositive;
    }
  }
}

void match_all(const MatchTask& task, bool keep_best) {
  const int64_t items = task.images * BlockWalk::blocks_of(task);
  const int64_t truths = task.truths.area.size();
  std::vector<float> highest_of_block(items), best_of_truth(truths, 0.0f);
  std::mutex merging;
  torch::stable::parallel_for(0, items, 256, [&](int64_t begin, int64_t end) {
    const std::vector<float> found = match_blocks(task, begin, end, highest_of_block.data());
    // the largest of all, in whatever order the threads arrive
    const std::lock_guard<std::mutex> lock(merging);
    for (int64_t t = 0; t < truths; ++t) best_of_truth[t] = std::max(best_of_truth[t], found[t]);
  });
  if (!keep_best) return;
  torch::stable::parallel_for(0, items, 256, [&](int64_t begin, int64_t end) {
    keep_best_of_each_truth(task, begin, end, highest_of_block.data(), best_of_truth.data());
  });
}

std::tuple<Tensor, Tensor> match_boxes(
    const Tensor& candidates_in, const Tensor& truths_in, const Tensor& offsets_in,
    double positive_iou, double negative_iou, bool keep_best) {
  const Tensor candidates = torch::stable::contiguous(candidates_in);
  const Tensor truths = torch::stable::contiguous(truths_in);
  const Tensor offsets = torch::stable::contiguous(offsets_in);
  STD_TORCH_CHECK(
      candidates.dim() == 3 && candidates.size(2) == 4, "candidates must be (B or 1, N, 4)");
  STD_TORCH_CHECK(truths.dim() == 2 && truths.size(1) == 4, "truths must be (G, 4)");
  check_offsets(offsets, truths.size(0), "truth_offsets");
  const int64_t images = offsets.numel() - 1, count = candidates.size(1);
  STD_TORCH_CHECK(
      candidates.size(0) == 1 || candidates.size(0) == images, "candidates of ",
      candidates.size(0), " images, truths of ", images);
  STD_TORCH_CHECK(truths.size(0) <= std::numeric_limits<int32_t>::max(), "too many truths");
  Tensor truth = torch::stable::new_empty(candidates, {images, count}, ScalarType::Long);
  Tensor verdict = torch::stable::new_empty(candidates, {images, count}, ScalarType::Long);
  if (truth.numel() == 0) return {truth, verdict};
  const TruthColumns columns(truths.const_data_ptr<float>(), truths.size(0));
  match_all(
      {candidates.const_data_ptr<float>(), candidates.size(0) == 1 ? 0 : 4 * count, images, count,
       columns, offsets.const_data_ptr<int64_t>(),
       MatchThresholds(positive_iou, negative_iou), truth.mutable_data_ptr<int64_t>(),
       verdict.mutable_data_ptr<int64_t>()},
      keep_best);
  return {truth, verdict};
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("match_boxes", TORCH_BOX(&ops_cuda::cpu::match_boxes));
}
