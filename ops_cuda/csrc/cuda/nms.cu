// NMS in one group of boxes or in many: IoUs above the threshold become bits, and one block per
// group sweeps over them. Only `nms`, whose output size is the number of kept boxes, needs a device
// sync.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <tuple>

#include "../box_overlap.h"
#include "../nms.h"
#include "launch.h"
#include "sorting.h"

namespace ops_cuda::gpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

using Bits = unsigned long long;
constexpr int kTile = 64;  // boxes per tile, one bit each
constexpr int kSweepThreads = 512;
constexpr int64_t kMaxWords = int64_t(1) << 25;  // of bits at a time: 256 MB

// Groups of `size` boxes. `order`: indices by descending score, or nullptr if the boxes are
// presorted. `scores`: nullptr if all boxes may be kept; otherwise boxes at -inf are padding.
template <typename T>
struct Groups {
  const T* boxes;
  const T* scores;
  const int64_t* order;
  int64_t size, words;

  __device__ int64_t index(int64_t group, int64_t rank) const {
    return order == nullptr ? rank : order[group * size + rank];
  }
};

// bits[(group * size + i) * words + w] has bit j set if the box of rank i overlaps that of rank
// 64 w + j; only ranks above i are written, and rank i itself if the box is padding.
template <typename T>
__global__ void __launch_bounds__(kTile) mark_overlaps(
    Groups<T> groups, int64_t first_group, T threshold, Bits* __restrict__ bits) {
  const int64_t row_tile = blockIdx.y, column_tile = blockIdx.x, slot = blockIdx.z;
  if (column_tile < row_tile) return;
  const int64_t group = first_group + slot;
  const T* boxes = groups.boxes + 4 * group * groups.size;
  __shared__ T columns[kTile][4];
  __shared__ T areas[kTile];
  const int64_t first = column_tile * kTile, left = groups.size - first;
  const int filled = static_cast<int>(left < kTile ? left : kTile);
  const int lane = threadIdx.x;
  if (lane < filled) {
    const int64_t index = groups.index(group, first + lane);
    for (int k = 0; k < 4; ++k) columns[lane][k] = boxes[4 * index + k];
    areas[lane] = box_area(columns[lane]);
  }
  __syncthreads();

  const int64_t row = row_tile * kTile + lane;
  if (row >= groups.size) return;
  const int64_t index = groups.index(group, row);
  Bits overlaps = 0;
  const T padding = -std::numeric_limits<T>::infinity();
  if (groups.scores != nullptr && groups.scores[group * groups.size + index] == padding) {
    if (row_tile == column_tile) overlaps = Bits(1) << lane;
  } else {
    T box[4];
    for (int k = 0; k < 4; ++k) box[k] = boxes[4 * index + k];
    const T area = box_area(box);
    for (int j = row_tile == column_tile ? lane + 1 : 0; j < filled; ++j) {
      const T intersection =
          intersection_area(box, columns[j][0], columns[j][1], columns[j][2], columns[j][3]);
      if (intersection / (area + areas[j] - intersection) > threshold) overlaps |= Bits(1) << j;
    }
  }
  bits[(slot * groups.size + row) * groups.words + column_tile] = overlaps;
}

// One block per group: visits the tiles in order, keeps the boxes that no kept box has removed, and
// writes their indices and number. `removed` has `words` words per group, all zero.
template <typename T>
__global__ void __launch_bounds__(kSweepThreads) sweep(
    Groups<T> groups, int64_t first_group, const Bits* __restrict__ all_bits, int64_t max_kept,
    Bits* all_removed, int64_t* __restrict__ all_kept, int64_t* __restrict__ kept_counts) {
  __shared__ Bits tile_overlaps[kTile];
  __shared__ Bits kept_bits;
  const int64_t slot = blockIdx.x, group = first_group + slot, words = groups.words;
  const Bits* bits = all_bits + slot * groups.size * words;
  Bits* removed = all_removed + group * words;
  int64_t* kept = all_kept + group * max_kept;
  int64_t written = 0;  // the same in every thread
  for (int64_t tile = 0; tile < words && written != max_kept; ++tile) {
    const int64_t first = tile * kTile, left = groups.size - first;
    const int filled = static_cast<int>(left < kTile ? left : kTile);
    if (threadIdx.x < filled) {
      tile_overlaps[threadIdx.x] = bits[(first + threadIdx.x) * words + tile];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      const Bits valid = filled == kTile ? ~Bits(0) : (Bits(1) << filled) - 1;
      Bits candidates = valid & ~removed[tile], kept_in_tile = 0;
      int64_t room = max_kept - written;
      while (candidates != 0 && room > 0) {
        const int best = __ffsll(candidates) - 1;
        const Bits itself = Bits(1) << best, overlaps = tile_overlaps[best];
        candidates &= ~(overlaps | itself);
        if ((overlaps & itself) == 0) {
          kept_in_tile |= itself;
          --room;
        }
      }
      kept_bits = kept_in_tile;
    }
    __syncthreads();
    const Bits kept_in_tile = kept_bits;
    if (threadIdx.x < filled && (kept_in_tile >> threadIdx.x & 1) != 0) {
      const Bits before = kept_in_tile & ((Bits(1) << threadIdx.x) - 1);
      kept[written + __popcll(before)] = groups.index(group, first + threadIdx.x);
    }
    for (int64_t word = tile + 1 + threadIdx.x; word < words; word += kSweepThreads) {
      Bits newly_removed = 0;
      for (Bits rest = kept_in_tile; rest != 0; rest &= rest - 1) {
        newly_removed |= bits[(first + __ffsll(rest) - 1) * words + word];
      }
      removed[word] |= newly_removed;
    }
    written += __popcll(kept_in_tile);
    __syncthreads();  // `removed` is complete, and the shared words may be overwritten
  }
  if (threadIdx.x == 0) kept_counts[group] = written;
}

// Fills kept (groups, max_kept) and counts (groups,), both zero, from boxes (groups, N, 4) and
// scores (groups, N).
template <typename T>
void suppress_groups(
    const Tensor& boxes, const Tensor& scores, bool presorted, bool has_padding,
    double iou_threshold, Tensor& kept, Tensor& counts) {
  const int64_t count = counts.size(0), size = scores.numel() / count;
  const int64_t words = (size + kTile - 1) / kTile, max_kept = kept.numel() / count;
  STD_TORCH_CHECK(words <= 65535, "nms of ", size, " boxes exceeds a CUDA grid");
  const cudaStream_t stream = current_stream(boxes);
  const Tensor order = presorted ? counts : stable_order(scores, /*descending=*/true);
  const Groups<T> groups{
      boxes.const_data_ptr<T>(), has_padding ? scores.const_data_ptr<T>() : nullptr,
      presorted ? nullptr : order.const_data_ptr<int64_t>(), size, words};
  const int64_t groups_at_once = std::clamp<int64_t>(kMaxWords / (size * words), 1, 65535);
  Tensor bits = torch::stable::new_empty(
      boxes, {std::min(groups_at_once, count) * size * words}, ScalarType::Long);
  Tensor removed = torch::stable::new_zeros(boxes, {count * words}, ScalarType::Long);
  Bits* bit_data = reinterpret_cast<Bits*>(bits.mutable_data_ptr<int64_t>());
  const auto tiles = static_cast<unsigned int>(words);
  for (int64_t first = 0; first < count; first += groups_at_once) {
    const auto group_count = static_cast<unsigned int>(std::min(groups_at_once, count - first));
    mark_overlaps<T><<<dim3(tiles, tiles, group_count), kTile, 0, stream>>>(
        groups, first, IouThreshold<T>(iou_threshold).exact, bit_data);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    sweep<T><<<group_count, kSweepThreads, 0, stream>>>(
        groups, first, bit_data, max_kept,
        reinterpret_cast<Bits*>(removed.mutable_data_ptr<int64_t>()),
        kept.mutable_data_ptr<int64_t>(), counts.mutable_data_ptr<int64_t>());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

void suppress_any(
    const Tensor& boxes, const Tensor& scores, bool presorted, bool has_padding,
    double iou_threshold, Tensor& kept, Tensor& counts) {
  if (kept.numel() == 0) return;
  if (boxes.scalar_type() == ScalarType::Double) {
    suppress_groups<double>(boxes, scores, presorted, has_padding, iou_threshold, kept, counts);
  } else {
    suppress_groups<float>(boxes, scores, presorted, has_padding, iou_threshold, kept, counts);
  }
}

Tensor nms(
    const Tensor& boxes_in, const Tensor& scores_in, double iou_threshold, int64_t max_kept) {
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  const Tensor scores = torch::stable::contiguous(scores_in);
  check_boxes(boxes, scores);
  const auto guard = on_device_of(boxes);
  const int64_t size = boxes.size(0), limit = max_kept < 0 ? size : std::min(max_kept, size);
  Tensor kept = torch::stable::new_zeros(boxes, {limit}, ScalarType::Long);
  if (limit == 0) return kept;
  Tensor counts = torch::stable::new_zeros(boxes, {1}, ScalarType::Long);
  suppress_any(boxes, scores, false, false, iou_threshold, kept, counts);
  int64_t total = 0;
  const cudaStream_t stream = current_stream(boxes);
  STD_CUDA_CHECK(cudaMemcpyAsync(
      &total, counts.const_data_ptr<int64_t>(), sizeof(total), cudaMemcpyDeviceToHost, stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(stream));
  return torch::stable::narrow(kept, 0, 0, total);
}

std::tuple<Tensor, Tensor> grouped_nms(
    const Tensor& boxes_in, const Tensor& scores_in, double iou_threshold, int64_t max_kept,
    bool presorted) {
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  const Tensor scores = torch::stable::contiguous(scores_in);
  check_groups(boxes, scores, max_kept);
  const auto guard = on_device_of(boxes);
  const int64_t groups = boxes.size(0), limit = std::min(boxes.size(1), max_kept);
  Tensor kept = torch::stable::new_zeros(boxes, {groups, limit}, ScalarType::Long);
  Tensor counts = torch::stable::new_zeros(boxes, {groups}, ScalarType::Long);
  suppress_any(boxes, scores, presorted, true, iou_threshold, kept, counts);
  return {kept, counts};
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("nms", TORCH_BOX(&ops_cuda::gpu::nms));
  library.impl("grouped_nms", TORCH_BOX(&ops_cuda::gpu::grouped_nms));
}
