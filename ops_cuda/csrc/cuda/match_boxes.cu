// Matching of candidates to the ground-truth box of highest IoU: one thread per candidate, with
// tiles of ground-truth boxes in shared memory. IoUs are never negative, so their bits rank as
// integers, and the highest IoU of a ground-truth box is an integer maximum, independent of the
// order of threads.
//
// Offsets out of range are clamped, because checking them on the host would need a device sync.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <tuple>

#include "../match_boxes.h"
#include "launch.h"
#include "offset_lists.h"

namespace ops_cuda::gpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kMatchThreads = 128;  // also ground-truth boxes per tile

struct MatchTask {
  const float* candidates;
  int64_t stride;  // floats between the candidates of consecutive images; 0 if they share them
  int64_t images, count;
  const float* gt_boxes;
  FlatLists gt_of_image;
  MatchThresholds thresholds;
  float* highest;      // (images, count)
  int* highest_of_gt;  // (G,) bits of a float
  int64_t *matched_gt, *labels;
};

struct GtTile {
  float boxes[kMatchThreads][4];
  float areas[kMatchThreads];
  int highest[kMatchThreads];  // bits of a float
};

// Loads the tile that starts at `first`. Returns the number of its ground-truth boxes.
__device__ inline int load_tile(const MatchTask& task, Range range, int64_t first, GtTile& tile) {
  const int64_t index = first + threadIdx.x;
  __syncthreads();  // all threads are done with the previous tile
  if (index < range.end) {
    for (int k = 0; k < 4; ++k) tile.boxes[threadIdx.x][k] = task.gt_boxes[4 * index + k];
    tile.areas[threadIdx.x] = box_area(tile.boxes[threadIdx.x]);
    tile.highest[threadIdx.x] = task.highest_of_gt[index];
  }
  __syncthreads();
  return static_cast<int>(minimum(range.end - first, kMatchThreads));
}

// The IoU of `box` with a ground-truth box; not above 0 if they do not overlap or it is NaN.
__device__ inline float iou_with(const float* box, float area, const GtTile& tile, int j) {
  const float intersection = intersection_area(tile.boxes[j], box[0], box[1], box[2], box[3]);
  return intersection > 0.0f ? intersection / (tile.areas[j] + area - intersection) : 0.0f;
}

__global__ void __launch_bounds__(kMatchThreads) match_candidates(MatchTask task) {
  __shared__ GtTile tile;
  for (int64_t image = blockIdx.y; image < task.images; image += gridDim.y) {
    const Range range = task.gt_of_image.range(image);
    for (int64_t start = int64_t(blockIdx.x) * kMatchThreads; start < task.count;
         start += int64_t(gridDim.x) * kMatchThreads) {
      const int64_t index = start + threadIdx.x;
      float box[4] = {0.0f, 0.0f, 0.0f, 0.0f};  // no area: it overlaps nothing
      if (index < task.count) {
        const float* source = task.candidates + image * task.stride + 4 * index;
        for (int k = 0; k < 4; ++k) box[k] = source[k];
      }
      const float area = box_area(box);
      float highest = 0.0f;
      int64_t matched = 0;
      for (int64_t first = range.begin; first < range.end; first += kMatchThreads) {
        const int size = load_tile(task, range, first, tile);
        for (int j = 0; j < size; ++j) {
          const float iou = iou_with(box, area, tile, j);
          if (iou > highest) {
            highest = iou;
            matched = first + j - range.begin;
          }
          // few candidates pass the comparison, so there are few atomics
          const int bits = __float_as_int(iou);
          if (iou > 0.0f && bits > tile.highest[j]) atomicMax(&tile.highest[j], bits);
        }
        __syncthreads();
        if (threadIdx.x < size) {
          atomicMax(&task.highest_of_gt[first + threadIdx.x], tile.highest[threadIdx.x]);
        }
      }
      if (index < task.count) {
        const int64_t output = image * task.count + index;
        task.highest[output] = highest;
        task.matched_gt[output] = matched;
        task.labels[output] =
            range.begin < range.end ? task.thresholds.label(highest) : kNegative;
      }
    }
  }
}

// Makes the candidates of highest IoU with each ground-truth box positive.
__global__ void __launch_bounds__(kMatchThreads) add_low_quality_matches(MatchTask task) {
  __shared__ GtTile tile;
  for (int64_t image = blockIdx.y; image < task.images; image += gridDim.y) {
    const Range range = task.gt_of_image.range(image);
    for (int64_t start = int64_t(blockIdx.x) * kMatchThreads; start < task.count;
         start += int64_t(gridDim.x) * kMatchThreads) {
      const int64_t index = start + threadIdx.x;
      const int64_t output = image * task.count + index;
      float box[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      int highest = 0;
      if (index < task.count) {
        const float* source = task.candidates + image * task.stride + 4 * index;
        for (int k = 0; k < 4; ++k) box[k] = source[k];
        highest = __float_as_int(task.highest[output]);
      }
      const float area = box_area(box);
      bool ties = false;
      for (int64_t first = range.begin; first < range.end; first += kMatchThreads) {
        const int size = load_tile(task, range, first, tile);
        for (int j = 0; j < size; ++j) {
          // most candidates do not reach the highest IoU of any ground-truth box: no division
          const int target = tile.highest[j];
          if (target <= 0 || target > highest) continue;
          ties |= __float_as_int(iou_with(box, area, tile, j)) == target;
        }
      }
      if (ties) task.labels[output] = kPositive;
    }
  }
}

std::tuple<Tensor, Tensor> match_boxes(
    const Tensor& candidates_in, const Tensor& gt_boxes_in, const Tensor& offsets_in,
    double positive_iou, double negative_iou, bool allow_low_quality) {
  const auto guard = on_device_of(candidates_in);
  const Tensor candidates = torch::stable::contiguous(candidates_in);
  const Tensor gt_boxes = torch::stable::contiguous(gt_boxes_in);
  const Tensor offsets = torch::stable::contiguous(offsets_in);
  const int64_t images = check_match(candidates, gt_boxes, offsets), count = candidates.size(1);
  Tensor matched_gt = torch::stable::new_empty(candidates, {images, count}, ScalarType::Long);
  Tensor labels = torch::stable::new_empty(candidates, {images, count}, ScalarType::Long);
  if (labels.numel() == 0) return {matched_gt, labels};
  Tensor highest = torch::stable::new_empty(candidates, {images, count});
  Tensor highest_of_gt = torch::stable::new_zeros(candidates, {gt_boxes.size(0)}, ScalarType::Int);

  const MatchTask task{
      candidates.const_data_ptr<float>(),
      candidates.size(0) == 1 ? 0 : 4 * count,
      images,
      count,
      gt_boxes.const_data_ptr<float>(),
      flat_lists(offsets, gt_boxes.size(0)),
      MatchThresholds(positive_iou, negative_iou),
      highest.mutable_data_ptr<float>(),
      highest_of_gt.mutable_data_ptr<int>(),
      matched_gt.mutable_data_ptr<int64_t>(),
      labels.mutable_data_ptr<int64_t>()};
  const dim3 grid(
      blocks_for(count, kMatchThreads),
      static_cast<unsigned int>(std::min<int64_t>(images, 65535)));
  const cudaStream_t stream = current_stream(candidates);
  match_candidates<<<grid, kMatchThreads, 0, stream>>>(task);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  if (allow_low_quality) {
    add_low_quality_matches<<<grid, kMatchThreads, 0, stream>>>(task);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {matched_gt, labels};
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("match_boxes", TORCH_BOX(&ops_cuda::gpu::match_boxes));
}
