// Suppression within each class, whose sizes only the device knows: boxes are sorted by class and
// score, and one block walks through each class, comparing a tile of boxes with those kept so far.
// Memory is proportional to the number of boxes, whatever the classes.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>

#include "../box_overlap.h"
#include "launch.h"
#include "sorting.h"

namespace ops_cuda::gpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

using Bits = unsigned long long;
constexpr int kTile = 64;   // boxes per tile, one bit each
constexpr int kSlices = 8;  // threads per box of a tile
constexpr int64_t kStartsPerBlock = 16;  // boxes that a block asks whether a class starts there

// Sorted by class, in each class best first. `boxes` of a class are overwritten by its survivors.
template <typename T>
struct SortedBoxes {
  T* boxes;
  const int64_t* classes;
  const int64_t* places;  // in `survives`
  int64_t count;
};

template <typename T>
__device__ inline bool overlap(const T* box, const T* other, T threshold) {
  const T shared = shared_area(box, other[0], other[1], other[2], other[3]);
  return shared / (box_area(box) + box_area(other) - shared) > threshold;
}

template <typename T>
__global__ void __launch_bounds__(kTile * kSlices) mark_survivors(
    SortedBoxes<T> sorted, T threshold, bool* __restrict__ survives) {
  __shared__ T tile[kTile][4];
  __shared__ int gone[kTile];
  __shared__ Bits overlaps[kTile];
  __shared__ Bits survivors;
  __shared__ int more;
  const int lane = threadIdx.x % kTile, slice = threadIdx.x / kTile;
  for (int64_t start = blockIdx.x; start < sorted.count; start += gridDim.x) {
    const int64_t label = sorted.classes[start];
    if (start > 0 && sorted.classes[start - 1] == label) continue;  // not the first of its class
    T* kept = sorted.boxes + 4 * start;
    int64_t kept_count = 0;  // the same in every thread
    for (int64_t first = start, unfinished = 1; unfinished != 0; first += kTile) {
      const int64_t place = first + lane;
      if (slice == 0) {
        const bool present = place < sorted.count && sorted.classes[place] == label;
        gone[lane] = !present;
        for (int k = 0; k < 4; ++k) tile[lane][k] = present ? sorted.boxes[4 * place + k] : T(0);
        if (lane == kTile - 1) {
          more = place + 1 < sorted.count && sorted.classes[place + 1] == label;
        }
      }
      __syncthreads();
      if (slice == 0) {
        Bits marks = 0;
        for (int j = lane + 1; j < kTile; ++j) {
          if (overlap(tile[lane], tile[j], threshold)) marks |= Bits(1) << j;
        }
        overlaps[lane] = marks;
      } else {
        // all that write to gone[lane] write the same
        for (int64_t k = slice - 1; k < kept_count; k += kSlices - 1) {
          if (overlap(kept + 4 * k, tile[lane], threshold)) {
            gone[lane] = 1;
            break;
          }
        }
      }
      __syncthreads();
      if (threadIdx.x == 0) {
        Bits found = 0, removed = 0;
        for (int j = 0; j < kTile; ++j) {
          if (gone[j] != 0 || (removed >> j & 1) != 0) continue;
          found |= Bits(1) << j;
          removed |= overlaps[j];
        }
        survivors = found;
      }
      __syncthreads();
      const Bits found = survivors;
      if (slice == 0 && (found >> lane & 1) != 0) {
        const int64_t row = kept_count + __popcll(found & ((Bits(1) << lane) - 1));
        for (int k = 0; k < 4; ++k) kept[4 * row + k] = tile[lane][k];
        survives[sorted.places[place]] = true;
      }
      kept_count += __popcll(found);
      unfinished = more;
      __syncthreads();  // survivors are written, and the shared values may be overwritten
    }
  }
}

// Marks in `survives` at place r the box of rank r, or with `by_index` at its own index.
template <typename T>
void mark_typed(
    const Tensor& boxes, const Tensor& classes, const Tensor& order, bool by_index,
    double iou_threshold, Tensor& survives) {
  const Tensor ranked_classes = rows_at(classes, order);
  const Tensor by_class = stable_order(ranked_classes, /*falling=*/false);
  const Tensor members = rows_at(order, by_class);
  Tensor sorted = rows_at(boxes, members);
  const Tensor labels = rows_at(classes, members);
  const int64_t count = boxes.size(0);
  const SortedBoxes<T> view{
      sorted.mutable_data_ptr<T>(), labels.const_data_ptr<int64_t>(),
      (by_index ? members : by_class).const_data_ptr<int64_t>(), count};
  mark_survivors<T><<<
      blocks_for(count, kStartsPerBlock), kTile * kSlices, 0, current_stream(boxes)>>>(
      view, OverlapThreshold<T>(iou_threshold).exact,
      static_cast<bool*>(survives.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor survivors_of(
    const Tensor& boxes, const Tensor& classes, const Tensor& order, bool by_index,
    double iou_threshold) {
  Tensor survives = torch::stable::new_zeros(boxes, {boxes.size(0)}, ScalarType::Bool);
  if (boxes.size(0) == 0) return survives;
  if (boxes.scalar_type() == ScalarType::Double) {
    mark_typed<double>(boxes, classes, order, by_index, iou_threshold, survives);
  } else {
    mark_typed<float>(boxes, classes, order, by_index, iou_threshold, survives);
  }
  return survives;
}

void check_boxes(const Tensor& boxes, const Tensor& scores, const Tensor& classes) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "boxes must be (N, 4)");
  STD_TORCH_CHECK(
      scores.dim() == 1 && scores.size(0) == boxes.size(0), "scores must be (N,), one per box");
  STD_TORCH_CHECK(scores.scalar_type() == boxes.scalar_type(), "boxes and scores differ in type");
  STD_TORCH_CHECK(
      classes.dim() == 1 && classes.size(0) == boxes.size(0) &&
          classes.scalar_type() == ScalarType::Long,
      "classes must be (N,) int64, one per box");
}

Tensor batched_nms(
    const Tensor& boxes, const Tensor& scores, const Tensor& classes, double iou_threshold,
    int64_t max_kept) {
  check_boxes(boxes, scores, classes);
  const auto guard = on_device_of(boxes);
  const Tensor order = stable_order(scores, /*falling=*/true);
  const Tensor survives = survivors_of(boxes, classes, order, false, iou_threshold);
  // The one wait for the device: the output has the size of what is kept.
  const Tensor ranks = places_of(survives);
  Tensor kept = rows_at(order, torch::stable::flatten(ranks, 0, 1));
  const int64_t total = kept.size(0);
  return torch::stable::narrow(kept, 0, 0, max_kept < 0 ? total : std::min(total, max_kept));
}

Tensor surviving_boxes(
    const Tensor& boxes, const Tensor& scores, const Tensor& classes, double iou_threshold) {
  check_boxes(boxes, scores, classes);
  const auto guard = on_device_of(boxes);
  return survivors_of(
      boxes, classes, stable_order(scores, /*falling=*/true), true, iou_threshold);
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("batched_nms", TORCH_BOX(&ops_cuda::gpu::batched_nms));
  library.impl("surviving_boxes", TORCH_BOX(&ops_cuda::gpu::surviving_boxes));
}
