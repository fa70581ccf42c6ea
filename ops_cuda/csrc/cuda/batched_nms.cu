// NMS within each class, whose sizes only the device knows: boxes are sorted by class and score,
// and one block per class compares tile after tile of boxes with those kept so far. Memory is
// proportional to the number of boxes, whatever the classes.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>

#include "../box_overlap.h"
#include "../nms.h"
#include "launch.h"
#include "sorting.h"

namespace ops_cuda::gpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

using Bits = unsigned long long;
constexpr int kTile = 64;   // boxes per tile, one bit each
constexpr int kSlices = 8;  // threads per box of a tile
constexpr int64_t kStartsPerBlock = 16;  // boxes per block that may be the first of their class

// Sorted by class, within each class by descending score. The kept boxes of a class overwrite its
// `boxes`.
template <typename T>
struct SortedBoxes {
  T* boxes;
  const int64_t* classes;
  const int64_t* indices;  // of the boxes in `is_kept`
  int64_t count;
};

template <typename T>
__device__ inline bool overlaps(const T* box, const T* other, T threshold) {
  const T intersection = intersection_area(box, other[0], other[1], other[2], other[3]);
  return intersection / (box_area(box) + box_area(other) - intersection) > threshold;
}

template <typename T>
__global__ void __launch_bounds__(kTile * kSlices) mark_kept(
    SortedBoxes<T> sorted, T threshold, bool* __restrict__ is_kept) {
  __shared__ T tile[kTile][4];
  __shared__ int suppressed[kTile];
  __shared__ Bits overlap_bits[kTile];
  __shared__ Bits kept_bits;
  __shared__ int has_next_tile;
  const int lane = threadIdx.x % kTile, slice = threadIdx.x / kTile;
  for (int64_t start = blockIdx.x; start < sorted.count; start += gridDim.x) {
    const int64_t label = sorted.classes[start];
    if (start > 0 && sorted.classes[start - 1] == label) continue;  // not the first of its class
    T* kept = sorted.boxes + 4 * start;
    int64_t kept_count = 0;  // the same in every thread
    for (int64_t first = start, has_more = 1; has_more != 0; first += kTile) {
      const int64_t index = first + lane;
      if (slice == 0) {
        const bool valid = index < sorted.count && sorted.classes[index] == label;
        suppressed[lane] = !valid;
        for (int k = 0; k < 4; ++k) tile[lane][k] = valid ? sorted.boxes[4 * index + k] : T(0);
        if (lane == kTile - 1) {
          has_next_tile = index + 1 < sorted.count && sorted.classes[index + 1] == label;
        }
      }
      __syncthreads();
      if (slice == 0) {
        Bits bits = 0;
        for (int j = lane + 1; j < kTile; ++j) {
          if (overlaps(tile[lane], tile[j], threshold)) bits |= Bits(1) << j;
        }
        overlap_bits[lane] = bits;
      } else {
        // all threads that write suppressed[lane] write the same value
        for (int64_t k = slice - 1; k < kept_count; k += kSlices - 1) {
          if (overlaps(kept + 4 * k, tile[lane], threshold)) {
            suppressed[lane] = 1;
            break;
          }
        }
      }
      __syncthreads();
      if (threadIdx.x == 0) {
        Bits kept_in_tile = 0, removed = 0;
        for (int j = 0; j < kTile; ++j) {
          if (suppressed[j] != 0 || (removed >> j & 1) != 0) continue;
          kept_in_tile |= Bits(1) << j;
          removed |= overlap_bits[j];
        }
        kept_bits = kept_in_tile;
      }
      __syncthreads();
      const Bits kept_in_tile = kept_bits;
      if (slice == 0 && (kept_in_tile >> lane & 1) != 0) {
        const int64_t row = kept_count + __popcll(kept_in_tile & ((Bits(1) << lane) - 1));
        for (int k = 0; k < 4; ++k) kept[4 * row + k] = tile[lane][k];
        is_kept[sorted.indices[index]] = true;
      }
      kept_count += __popcll(kept_in_tile);
      has_more = has_next_tile;
      __syncthreads();  // kept boxes are written, and the shared values may be overwritten
    }
  }
}

// Marks the kept boxes in `is_kept`, at their rank, or with `by_index` at their index.
template <typename T>
void mark_typed(
    const Tensor& boxes, const Tensor& classes, const Tensor& order, bool by_index,
    double iou_threshold, Tensor& is_kept) {
  const Tensor ranked_classes = rows_at(classes, order);
  const Tensor by_class = stable_order(ranked_classes, /*descending=*/false);
  const Tensor members = rows_at(order, by_class);
  Tensor sorted = rows_at(boxes, members);
  const Tensor labels = rows_at(classes, members);
  const int64_t count = boxes.size(0);
  const SortedBoxes<T> view{
      sorted.mutable_data_ptr<T>(), labels.const_data_ptr<int64_t>(),
      (by_index ? members : by_class).const_data_ptr<int64_t>(), count};
  mark_kept<T><<<
      blocks_for(count, kStartsPerBlock), kTile * kSlices, 0, current_stream(boxes)>>>(
      view, IouThreshold<T>(iou_threshold).exact,
      static_cast<bool*>(is_kept.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor kept_mask(
    const Tensor& boxes, const Tensor& classes, const Tensor& order, bool by_index,
    double iou_threshold) {
  Tensor is_kept = torch::stable::new_zeros(boxes, {boxes.size(0)}, ScalarType::Bool);
  if (boxes.size(0) == 0) return is_kept;
  if (boxes.scalar_type() == ScalarType::Double) {
    mark_typed<double>(boxes, classes, order, by_index, iou_threshold, is_kept);
  } else {
    mark_typed<float>(boxes, classes, order, by_index, iou_threshold, is_kept);
  }
  return is_kept;
}

Tensor batched_nms(
    const Tensor& boxes, const Tensor& scores, const Tensor& classes, double iou_threshold,
    int64_t max_kept) {
  check_boxes(boxes, scores);
  check_classes(boxes, classes);
  const auto guard = on_device_of(boxes);
  const Tensor order = stable_order(scores, /*descending=*/true);
  const Tensor is_kept = kept_mask(boxes, classes, order, false, iou_threshold);
  // The one device sync: the size of the output is the number of kept boxes.
  const Tensor ranks = nonzero(is_kept);
  Tensor kept = rows_at(order, torch::stable::flatten(ranks, 0, 1));
  const int64_t total = kept.size(0);
  return torch::stable::narrow(kept, 0, 0, max_kept < 0 ? total : std::min(total, max_kept));
}

Tensor batched_nms_mask(
    const Tensor& boxes, const Tensor& scores, const Tensor& classes, double iou_threshold) {
  check_boxes(boxes, scores);
  check_classes(boxes, classes);
  const auto guard = on_device_of(boxes);
  return kept_mask(
      boxes, classes, stable_order(scores, /*descending=*/true), true, iou_threshold);
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("batched_nms", TORCH_BOX(&ops_cuda::gpu::batched_nms));
  library.impl("batched_nms_mask", TORCH_BOX(&ops_cuda::gpu::batched_nms_mask));
}
