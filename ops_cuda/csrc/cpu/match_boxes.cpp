// Matching of candidates to the ground-truth box of highest IoU, without the matrix of all IoUs.
//
// Candidates are processed in blocks of 64, as columns. Neighbors in the list are mostly neighbors
// in the image (anchors are), so the bounding box of a block rules out nearly all ground-truth
// boxes at once. A second pass finds the candidates that tie for the highest IoU of a ground-truth
// box; it visits only blocks that reach that IoU.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <mutex>
#include <tuple>
#include <vector>

#include "../match_boxes.h"
#include "index_checks.h"
#include "simd.h"

namespace ops_cuda::cpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kBlock = 64;
constexpr int64_t kPeaks = 16;  // partial maxima, so that the maximum is vectorized

struct GtColumns {
  std::vector<float> x1, y1, x2, y2, area;

  GtColumns(const float* boxes, int64_t count)
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

// 64 candidates as columns, and their bounding box, which NaN does not widen.
struct CandidateBlock {
  float x1[kBlock], y1[kBlock], x2[kBlock], y2[kBlock], area[kBlock];
  float left, top, right, bottom;
};

MULTIVERSION void load_block(const float* boxes, int64_t count, CandidateBlock& block) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float padding[4] = {infinity, infinity, -infinity, -infinity};
  block.left = block.top = infinity;
  block.right = block.bottom = -infinity;
  for (int64_t i = 0; i < kBlock; ++i) {
    const float* box = i < count ? boxes + 4 * i : padding;
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

// Lists the ground-truth boxes in [first, last) that touch the block. Returns their number.
MULTIVERSION int64_t list_near(
    const CandidateBlock& block, const GtColumns& gt, int64_t first, int64_t last,
    int64_t* near) {
  int64_t count = 0;
  for (int64_t t = first; t < last; ++t) {
    near[count] = t;
    count += int(gt.x1[t] < block.right) & int(gt.x2[t] > block.left) &
             int(gt.y1[t] < block.bottom) & int(gt.y2[t] > block.top);
  }
  return count;
}

// Computes the IoU of every candidate with one ground-truth box. Returns false if all are zero.
SHARED_INLINE bool compute_ious(
    const CandidateBlock& block, const GtColumns& gt, int64_t index, float* iou) {
  const float box[4] = {gt.x1[index], gt.y1[index], gt.x2[index], gt.y2[index]};
  const float area = gt.area[index];
  int any = 0;
  for (int64_t i = 0; i < kBlock; ++i) {
    iou[i] = intersection_area(box, block.x1[i], block.y1[i], block.x2[i], block.y2[i]);
    any |= iou[i] > 0.0f;
  }
  if (!any) return false;
  for (int64_t i = 0; i < kBlock; ++i) {
    iou[i] = iou[i] / (area + block.area[i] - iou[i]);
  }
  return true;
}

// Updates each candidate's highest IoU and its ground-truth box, and the highest IoU so far of each
// ground-truth box.
MULTIVERSION void match_block(
    const CandidateBlock& block, const GtColumns& gt, const int64_t* near, int64_t count,
    int64_t first, float* __restrict highest, int32_t* __restrict matched, float* highest_of_gt) {
  for (int64_t n = 0; n < count; ++n) {
    float iou[kBlock], peaks[kPeaks] = {};
    if (!compute_ious(block, gt, near[n], iou)) continue;
    const int32_t index = static_cast<int32_t>(near[n] - first);
    for (int64_t i = 0; i < kBlock; ++i) {
      const bool higher = iou[i] > highest[i];  // false for NaN
      highest[i] = higher ? iou[i] : highest[i];
      matched[i] = higher ? index : matched[i];
    }
    for (int64_t i = 0; i < kBlock; i += kPeaks) {
      for (int64_t p = 0; p < kPeaks; ++p) {
        peaks[p] = iou[i + p] > peaks[p] ? iou[i + p] : peaks[p];
      }
    }
    for (const float peak : peaks) {
      highest_of_gt[near[n]] = peak > highest_of_gt[near[n]] ? peak : highest_of_gt[near[n]];
    }
  }
}

// Marks the candidates whose IoU with a ground-truth box is the highest of all candidates.
MULTIVERSION void find_ties(
    const CandidateBlock& block, const GtColumns& gt, const int64_t* near, int64_t count,
    const float* highest_of_gt, float highest_of_block, int32_t* __restrict ties) {
  for (int64_t n = 0; n < count; ++n) {
    const float target = highest_of_gt[near[n]];
    float iou[kBlock];
    if (!(target > 0.0f && target <= highest_of_block)) continue;
    if (!compute_ious(block, gt, near[n], iou)) continue;
    for (int64_t i = 0; i < kBlock; ++i) ties[i] |= iou[i] == target;
  }
}

struct MatchTask {
  const float* candidates;
  int64_t stride;  // floats between the candidates of consecutive images; 0 if they share them
  int64_t images, count;
  const GtColumns& gt;
  const int64_t* offsets;
  MatchThresholds thresholds;
  int64_t *matched_gt, *labels;  // (images, count)
};

// Reads blocks of candidates, image by image, into its own buffers.
class BlockReader {
 public:
  explicit BlockReader(const MatchTask& task)
      : task_(task), blocks_(blocks_per_image(task)), near_(task.gt.area.size()) {}

  static int64_t blocks_per_image(const MatchTask& task) {
    return (task.count + kBlock - 1) / kBlock;
  }

  void seek(int64_t item) {
    const int64_t image = item / blocks_, start = item % blocks_ * kBlock;
    first_gt = task_.offsets[image];
    last_gt = task_.offsets[image + 1];
    size = std::min(kBlock, task_.count - start);
    output = image * task_.count + start;
    source_ = task_.candidates + image * task_.stride + 4 * start;
  }

  // Loads the block and lists the ground-truth boxes near it. Returns their number.
  int64_t load() {
    load_block(source_, size, block);
    return list_near(block, task_.gt, first_gt, last_gt, near_.data());
  }

  const int64_t* near() const { return near_.data(); }

  CandidateBlock block;
  int64_t first_gt, last_gt, size, output;

 private:
  const MatchTask& task_;
  int64_t blocks_;
  std::vector<int64_t> near_;
  const float* source_;
};

// Matches blocks [begin, end) and writes the highest IoU of each. Returns the highest IoU of each
// ground-truth box among them.
std::vector<float> match_blocks(
    const MatchTask& task, int64_t begin, int64_t end, float* highest_of_block) {
  std::vector<float> highest_of_gt(task.gt.area.size(), 0.0f);
  BlockReader reader(task);
  for (int64_t item = begin; item < end; ++item) {
    reader.seek(item);
    const bool has_no_gt = reader.first_gt == reader.last_gt;
    float highest[kBlock] = {};
    int32_t matched[kBlock] = {};
    const int64_t near = reader.load();
    match_block(
        reader.block, task.gt, reader.near(), near, reader.first_gt, highest, matched,
        highest_of_gt.data());
    for (int64_t i = 0; i < reader.size; ++i) {
      task.matched_gt[reader.output + i] = matched[i];
      task.labels[reader.output + i] =
          has_no_gt ? kNegative : task.thresholds.label(highest[i]);
    }
    highest_of_block[item] = *std::max_element(highest, highest + kBlock);
  }
  return highest_of_gt;
}

// Makes the candidates of highest IoU with each ground-truth box positive, in blocks [begin, end).
void add_low_quality_matches(
    const MatchTask& task, int64_t begin, int64_t end, const float* highest_of_block,
    const float* highest_of_gt) {
  BlockReader reader(task);
  for (int64_t item = begin; item < end; ++item) {
    reader.seek(item);
    // without reading the block: most do not reach the highest IoU of any ground-truth box
    const bool may_tie = std::any_of(
        highest_of_gt + reader.first_gt, highest_of_gt + reader.last_gt,
        [&](float target) { return target > 0.0f && target <= highest_of_block[item]; });
    if (!may_tie) continue;
    int32_t ties[kBlock] = {};
    const int64_t near = reader.load();
    find_ties(
        reader.block, task.gt, reader.near(), near, highest_of_gt, highest_of_block[item], ties);
    for (int64_t i = 0; i < reader.size; ++i) {
      if (ties[i]) task.labels[reader.output + i] = kPositive;
    }
  }
}

void match_all(const MatchTask& task, bool allow_low_quality) {
  const int64_t items = task.images * BlockReader::blocks_per_image(task);
  const int64_t gt_count = task.gt.area.size();
  std::vector<float> highest_of_block(items), highest_of_gt(gt_count, 0.0f);
  std::mutex merging;
  torch::stable::parallel_for(0, items, 256, [&](int64_t begin, int64_t end) {
    const std::vector<float> highest = match_blocks(task, begin, end, highest_of_block.data());
    // a maximum does not depend on the order of the threads
    const std::lock_guard<std::mutex> lock(merging);
    for (int64_t g = 0; g < gt_count; ++g) {
      highest_of_gt[g] = std::max(highest_of_gt[g], highest[g]);
    }
  });
  if (!allow_low_quality) return;
  torch::stable::parallel_for(0, items, 256, [&](int64_t begin, int64_t end) {
    add_low_quality_matches(task, begin, end, highest_of_block.data(), highest_of_gt.data());
  });
}

std::tuple<Tensor, Tensor> match_boxes(
    const Tensor& candidates_in, const Tensor& gt_boxes_in, const Tensor& offsets_in,
    double positive_iou, double negative_iou, bool allow_low_quality) {
  const Tensor candidates = torch::stable::contiguous(candidates_in);
  const Tensor gt_boxes = torch::stable::contiguous(gt_boxes_in);
  const Tensor offsets = torch::stable::contiguous(offsets_in);
  const int64_t images = check_match(candidates, gt_boxes, offsets), count = candidates.size(1);
  check_offsets(offsets, gt_boxes.size(0), "gt_offsets");
  STD_TORCH_CHECK(
      gt_boxes.size(0) <= std::numeric_limits<int32_t>::max(), "too many ground-truth boxes");
  Tensor matched_gt = torch::stable::new_empty(candidates, {images, count}, ScalarType::Long);
  Tensor labels = torch::stable::new_empty(candidates, {images, count}, ScalarType::Long);
  if (labels.numel() == 0) return {matched_gt, labels};
  const GtColumns columns(gt_boxes.const_data_ptr<float>(), gt_boxes.size(0));
  match_all(
      {candidates.const_data_ptr<float>(), candidates.size(0) == 1 ? 0 : 4 * count, images, count,
       columns, offsets.const_data_ptr<int64_t>(),
       MatchThresholds(positive_iou, negative_iou), matched_gt.mutable_data_ptr<int64_t>(),
       labels.mutable_data_ptr<int64_t>()},
      allow_low_quality);
  return {matched_gt, labels};
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("match_boxes", TORCH_BOX(&ops_cuda::cpu::match_boxes));
}
