// Greedy non-maximum suppression without a round trip to the host: boxes are sorted, the overlaps
// above the threshold become bits, and one block sweeps over them. The host waits once, for the
// number of survivors, because the output has that size.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdint>
#include <optional>

#include "../box_overlap.h"
#include "launch.h"

namespace ops_cuda::gpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::detail::from;
using torch::stable::detail::to;

using Bits = unsigned long long;
constexpr int kTile = 64;  // boxes per tile, one bit each
constexpr int kSweepThreads = 512;

// bits[i * words + w] has bit j set where box i overlaps box 64 w + j; only j > i is written.
template <typename T>
__global__ void __launch_bounds__(kTile) mark_overlaps(
    const T* __restrict__ boxes, const int64_t* __restrict__ classes, int64_t count, int64_t words,
    T threshold, Bits* __restrict__ bits) {
  const int64_t row_tile = blockIdx.y, column_tile = blockIdx.x;
  if (column_tile < row_tile) return;
  __shared__ T columns[kTile][4];
  __shared__ T areas[kTile];
  __shared__ int64_t labels[kTile];
  const int64_t first = column_tile * kTile;
  const int size = static_cast<int>(count - first < kTile ? count - first : kTile);
  const int lane = threadIdx.x;
  if (lane < size) {
    for (int k = 0; k < 4; ++k) columns[lane][k] = boxes[4 * (first + lane) + k];
    areas[lane] = box_area(columns[lane]);
    labels[lane] = classes == nullptr ? 0 : classes[first + lane];
  }
  __syncthreads();

  const int64_t row = row_tile * kTile + lane;
  if (row >= count) return;
  T box[4];
  for (int k = 0; k < 4; ++k) box[k] = boxes[4 * row + k];
  const T area = box_area(box);
  const int64_t label = classes == nullptr ? 0 : classes[row];
  Bits overlaps = 0;
  for (int j = row_tile == column_tile ? lane + 1 : 0; j < size; ++j) {
    if (labels[j] != label) continue;
    const T shared =
        shared_area(box, columns[j][0], columns[j][1], columns[j][2], columns[j][3]);
    if (shared / (area + areas[j] - shared) > threshold) overlaps |= Bits(1) << j;
  }
  bits[row * words + column_tile] = overlaps;
}

// One block: walks the tiles in order, keeps what no kept box removed, and writes the survivors'
// indices and their number. `removed` has `words` words, all zero.
__global__ void __launch_bounds__(kSweepThreads) sweep(
    const Bits* __restrict__ bits, const int64_t* __restrict__ order, int64_t count, int64_t words,
    int64_t max_kept, Bits* removed, int64_t* __restrict__ kept, int64_t* __restrict__ kept_count) {
  __shared__ Bits tile_overlaps[kTile];
  __shared__ Bits survivors;
  int64_t written = 0;  // the same in every thread
  for (int64_t tile = 0; tile < words && written != max_kept; ++tile) {
    const int64_t first = tile * kTile;
    const int size = static_cast<int>(count - first < kTile ? count - first : kTile);
    if (threadIdx.x < size) {
      tile_overlaps[threadIdx.x] = bits[(first + threadIdx.x) * words + tile];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      const Bits present = size == kTile ? ~Bits(0) : (Bits(1) << size) - 1;
      Bits candidates = present & ~removed[tile], found = 0;
      int64_t room = max_kept < 0 ? count : max_kept - written;
      while (candidates != 0 && room > 0) {
        const int best = __ffsll(candidates) - 1;
        found |= Bits(1) << best;
        candidates &= ~(tile_overlaps[best] | Bits(1) << best);
        --room;
      }
      survivors = found;
    }
    __syncthreads();
    const Bits found = survivors;
    if (threadIdx.x < size && (found >> threadIdx.x & 1) != 0) {
      const Bits before = found & ((Bits(1) << threadIdx.x) - 1);
      kept[written + __popcll(before)] = order[first + threadIdx.x];
    }
    for (int64_t word = tile + 1 + threadIdx.x; word < words; word += kSweepThreads) {
      Bits gone = 0;
      for (Bits rest = found; rest != 0; rest &= rest - 1) {
        gone |= bits[(first + __ffsll(rest) - 1) * words + word];
      }
      removed[word] |= gone;
    }
    written += __popcll(found);
    __syncthreads();  // `removed` is complete, and the shared words may be overwritten
  }
  if (threadIdx.x == 0) *kept_count = written;
}

// torch's operators of these names; their C++ wrappers are younger than the oldest torch served.
Tensor indices_by_falling_score(const Tensor& scores) {
  std::array<StableIValue, 4> stack{
      from(scores), from(std::optional<bool>(true)), from(int64_t(0)), from(true)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  const Tensor values = to<Tensor>(stack[0]);  // taken over only to be freed
  return to<Tensor>(stack[1]);
}

Tensor rows_at(const Tensor& table, const Tensor& indices) {
  std::array<StableIValue, 3> stack{from(table), from(int64_t(0)), from(indices)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::index_select", "", stack.data(), TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

template <typename T>
Tensor nms_typed(
    const Tensor& boxes, const Tensor& scores, const Tensor* classes, double iou_threshold,
    int64_t max_kept) {
  const auto guard = on_device_of(boxes);
  const int64_t count = boxes.size(0), words = (count + kTile - 1) / kTile;
  STD_TORCH_CHECK(words <= 65535, "nms of ", count, " boxes: more than a CUDA grid holds");
  const Tensor order = indices_by_falling_score(scores);
  const Tensor ranked = rows_at(boxes, order);
  const Tensor ranked_classes = classes == nullptr ? order : rows_at(*classes, order);
  Tensor bits = torch::stable::new_empty(boxes, {count, words}, ScalarType::Long);
  Tensor removed = torch::stable::new_zeros(boxes, {words}, ScalarType::Long);
  Tensor kept = torch::stable::new_empty(boxes, {count}, ScalarType::Long);
  Tensor kept_count = torch::stable::new_empty(boxes, {1}, ScalarType::Long);

  const cudaStream_t stream = current_stream(boxes);
  const auto tiles = static_cast<unsigned int>(words);
  mark_overlaps<T><<<dim3(tiles, tiles), kTile, 0, stream>>>(
      ranked.const_data_ptr<T>(),
      classes == nullptr ? nullptr : ranked_classes.const_data_ptr<int64_t>(), count, words,
      OverlapThreshold<T>(iou_threshold).exact,
      reinterpret_cast<Bits*>(bits.mutable_data_ptr<int64_t>()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  sweep<<<1, kSweepThreads, 0, stream>>>(
      reinterpret_cast<const Bits*>(bits.const_data_ptr<int64_t>()),
      order.const_data_ptr<int64_t>(), count, words, max_kept,
      reinterpret_cast<Bits*>(removed.mutable_data_ptr<int64_t>()),
      kept.mutable_data_ptr<int64_t>(), kept_count.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();

  int64_t total = 0;
  STD_CUDA_CHECK(cudaMemcpyAsync(
      &total, kept_count.const_data_ptr<int64_t>(), sizeof(total), cudaMemcpyDeviceToHost,
      stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(stream));
  return torch::stable::narrow(kept, 0, 0, total);
}

Tensor nms_any(
    const Tensor& boxes_in, const Tensor& scores_in, const Tensor* classes, double iou_threshold,
    int64_t max_kept) {
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  const Tensor scores = torch::stable::contiguous(scores_in);
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "boxes must be (N, 4)");
  STD_TORCH_CHECK(
      scores.dim() == 1 && scores.size(0) == boxes.size(0), "scores must be (N,), one per box");
  STD_TORCH_CHECK(scores.scalar_type() == boxes.scalar_type(), "boxes and scores differ in type");
  if (boxes.size(0) == 0) return torch::stable::new_empty(boxes, {0}, ScalarType::Long);
  if (boxes.scalar_type() == ScalarType::Double) {
    return nms_typed<double>(boxes, scores, classes, iou_threshold, max_kept);
  }
  return nms_typed<float>(boxes, scores, classes, iou_threshold, max_kept);
}

Tensor nms(const Tensor& boxes, const Tensor& scores, double iou_threshold, int64_t max_kept) {
  return nms_any(boxes, scores, nullptr, iou_threshold, max_kept);
}

Tensor batched_nms(
    const Tensor& boxes, const Tensor& scores, const Tensor& classes_in, double iou_threshold,
    int64_t max_kept) {
  const Tensor classes = torch::stable::contiguous(classes_in);
  STD_TORCH_CHECK(
      classes.dim() == 1 && classes.size(0) == boxes.size(0) &&
          classes.scalar_type() == ScalarType::Long,
      "classes must be (N,) int64, one per box");
  return nms_any(boxes, scores, &classes, iou_threshold, max_kept);
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("nms", TORCH_BOX(&ops_cuda::gpu::nms));
  library.impl("batched_nms", TORCH_BOX(&ops_cuda::gpu::batched_nms));
}
