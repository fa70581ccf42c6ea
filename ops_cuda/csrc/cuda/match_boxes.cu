// Which true box each candidate overlaps most: one thread per candidate, true boxes through shared
// memory a tile at a time. Overlaps are never negative, so their bits rank as integers, and the
// best of a true box is an integer maximum: the same whichever thread comes first.
//
// Offsets out of range are clamped, never followed: the host does not wait to look at them.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <tuple>

#include "../match_rules.h"
#include "launch.h"
#include "offset_lists.h"

namespace ops_cuda::gpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kMatchThreads = 128;  // and true boxes per tile

struct MatchTask {
  const float* candidates;
  int64_t stride;  // floats from one image's candidates to the next's; 0 where they share them
  int64_t images, count;
  const float* truths;
  FlatLists truths_of_image;
  MatchThresholds thresholds;
  float* best;         // (images, count)
  int* best_of_truth;  // (truths,) bits of a float
  int64_t *truth, *verdict;
};

struct TruthTile {
  float boxes[kMatchThreads][4];
  float areas[kMatchThreads];
  int best[kMatchThreads];  // bits of a float
};

// Loads the tile that starts at `first`; how many true boxes it has.
__device__ inline int load_tile(const MatchTask& task, Range owned, int64_t first, TruthTile& tile) {
  const int64_t mine = first + threadIdx.x;
  __syncthreads();  // the last tile has been read
  if (mine < owned.end) {
    for (int k = 0; k < 4; ++k) tile.boxes[threadIdx.x][k] = task.truths[4 * mine + k];
    tile.areas[threadIdx.x] = box_area(tile.boxes[threadIdx.x]);
    tile.best[threadIdx.x] = task.best_of_truth[mine];
  }
  __syncthreads();
  return static_cast<int>(least(owned.end - first, kMatchThreads));
}

// The overlap of `box` with a true box; not above 0 where it is none or no number.
__device__ inline float overlap(const float* box, float area, const TruthTile& tile, int j) {
  const float shared = shared_area(tile.boxes[j], box[0], box[1], box[2], box[3]);
  return shared > 0.0f ? shared / (tile.areas[j] + area - shared) : 0.0f;
}

__global__ void __launch_bounds__(kMatchThreads) match_candidates(MatchTask task) {
  __shared__ TruthTile tile;
  for (int64_t image = blockIdx.y; image < task.images; image += gridDim.y) {
    const Range owned = task.truths_of_image.range(image);
    for (int64_t start = int64_t(blockIdx.x) * kMatchThreads; start < task.count;
         start += int64_t(gridDim.x) * kMatchThreads) {
      const int64_t mine = start + threadIdx.x;
      float box[4] = {0.0f, 0.0f, 0.0f, 0.0f};  // without area: it overlaps nothing
      if (mine < task.count) {
        const float* source = task.candidates + image * task.stride + 4 * mine;
        for (int k = 0; k < 4; ++k) box[k] = source[k];
      }
      const float area = box_area(box);
      float best = 0.0f;
      int64_t matched = 0;
      for (int64_t first = owned.begin; first < owned.end; first += kMatchThreads) {
        const int size = load_tile(task, owned, first, tile);
        for (int j = 0; j < size; ++j) {
          const float found = overlap(box, area, tile, j);
          if (found > best) {
            best = found;
            matched = first + j - owned.begin;
          }
          // few get past the comparison, so the atomics are few
          const int bits = __float_as_int(found);
          if (found > 0.0f && bits > tile.best[j]) atomicMax(&tile.best[j], bits);
        }
        __syncthreads();
        if (threadIdx.x < size) {
          atomicMax(&task.best_of_truth[first + threadIdx.x], tile.best[threadIdx.x]);
        }
      }
      if (mine < task.count) {
        const int64_t output = image * task.count + mine;
        task.best[output] = best;
        task.truth[output] = matched;
        task.verdict[output] =
            owned.begin < owned.end ? task.thresholds.judge(best) : kNegative;
      }
    }
  }
}

// Makes positive what overlaps a true box as much as any candidate does.
__global__ void __launch_bounds__(kMatchThreads) keep_best_of_each_truth(MatchTask task) {
  __shared__ TruthTile tile;
  for (int64_t image = blockIdx.y; image < task.images; image += gridDim.y) {
    const Range owned = task.truths_of_image.range(image);
    for (int64_t start = int64_t(blockIdx.x) * kMatchThreads; start < task.count;
         start += int64_t(gridDim.x) * kMatchThreads) {
      const int64_t mine = start + threadIdx.x;
      const int64_t output = image * task.count + mine;
      float box[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      int highest = 0;
      if (mine < task.count) {
        const float* source = task.candidates + image * task.stride + 4 * mine;
        for (int k = 0; k < 4; ++k) box[k] = source[k];
        highest = __float_as_int(task.best[output]);
      }
      const float area = box_area(box);
      bool ties = false;
      for (int64_t first = owned.begin; first < owned.end; first += kMatchThreads) {
        const int size = load_tile(task, owned, first, tile);
        for (int j = 0; j < size; ++j) {
          // most candidates reach no true box's best, and need not divide
          const int wanted = tile.best[j];
          if (wanted <= 0 || wanted > highest) continue;
          ties |= __float_as_int(overlap(box, area, tile, j)) == wanted;
        }
      }
      if (ties) task.verdict[output] = kPositive;
    }
  }
}

std::tuple<Tensor, Tensor> match_boxes(
    const Tensor& candidates_in, const Tensor& truths_in, const Tensor& offsets_in,
    double positive_iou, double negative_iou, bool keep_best) {
  const auto guard = on_device_of(candidates_in);
  const Tensor candidates = torch::stable::contiguous(candidates_in);
  const Tensor truths = torch::stable::contiguous(truths_in);
  const Tensor offsets = torch::stable::contiguous(offsets_in);
  STD_TORCH_CHECK(
      candidates.dim() == 3 && candidates.size(2) == 4, "candidates must be (B or 1, N, 4)");
  STD_TORCH_CHECK(truths.dim() == 2 && truths.size(1) == 4, "truths must be (G, 4)");
  const int64_t images = offsets.numel() - 1, count = candidates.size(1);
  STD_TORCH_CHECK(
      images >= 0 && (candidates.size(0) == 1 || candidates.size(0) == images), "candidates of ",
      candidates.size(0), " images, truths of ", images);
  Tensor truth = torch::stable::new_empty(candidates, {images, count}, ScalarType::Long);
  Tensor verdict = torch::stable::new_empty(candidates, {images, count}, ScalarType::Long);
  if (truth.numel() == 0) return {truth, verdict};
  Tensor best = torch::stable::new_empty(candidates, {images, count});
  Tensor best_of_truth = torch::stable::new_zeros(candidates, {truths.size(0)}, ScalarType::Int);

  const MatchTask task{
      candidates.const_data_ptr<float>(),
      candidates.size(0) == 1 ? 0 : 4 * count,
      images,
      count,
      truths.const_data_ptr<float>(),
      flat_lists(offsets, truths.size(0)),
      MatchThresholds(positive_iou, negative_iou),
      best.mutable_data_ptr<float>(),
      best_of_truth.mutable_data_ptr<int>(),
      truth.mutable_data_ptr<int64_t>(),
      verdict.mutable_data_ptr<int64_t>()};
  const dim3 grid(
      blocks_for(count, kMatchThreads), static_cast<unsigned int>(std::min<int64_t>(images, 65535)));
  const cudaStream_t stream = current_stream(candidates);
  match_candidates<<<grid, kMatchThreads, 0, stream>>>(task);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  if (keep_best) {
    keep_best_of_each_truth<<<grid, kMatchThreads, 0, stream>>>(task);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {truth, verdict};
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("match_boxes", TORCH_BOX(&ops_cuda::gpu::match_boxes));
}
