// NMS in many groups of equal size at once, with an output of fixed size.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <tuple>
#include <vector>

#include "../nms.h"
#include "ranking.h"
#include "suppression.h"

namespace ops_cuda::cpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Indices of the boxes of one group that may be kept, highest score first.
template <typename T>
std::vector<int64_t> list_candidates(const T* scores, int64_t count, bool presorted) {
  std::vector<int64_t> order;
  if (presorted) {
    order.resize(count);
    std::iota(order.begin(), order.end(), int64_t(0));
  } else {
    order = rank_by_score(scores, count);
  }
  const T padding = -std::numeric_limits<T>::infinity();
  const auto end = std::remove_if(
      order.begin(), order.end(), [&](int64_t index) { return scores[index] == padding; });
  order.erase(end, order.end());
  return order;
}

template <typename T>
void grouped_nms_typed(
    const Tensor& boxes, const Tensor& scores, double iou_threshold, bool presorted, Tensor& kept,
    Tensor& counts) {
  const int64_t groups = boxes.size(0), size = boxes.size(1), limit = kept.size(1);
  const T* box_data = boxes.const_data_ptr<T>();
  const T* score_data = scores.const_data_ptr<T>();
  int64_t* kept_data = kept.mutable_data_ptr<int64_t>();
  int64_t* count_data = counts.mutable_data_ptr<int64_t>();
  const IouThreshold<T> threshold(iou_threshold);
  const int64_t grain = std::max<int64_t>(1, 2048 / std::max<int64_t>(size, 1));
  torch::stable::parallel_for(0, groups, grain, [&](int64_t first, int64_t last) {
    BoxColumns<T> scratch;
    for (int64_t g = first; g < last; ++g) {
      std::vector<int64_t> order = list_candidates(score_data + g * size, size, presorted);
      count_data[g] = suppress(
          box_data + 4 * g * size, order.data(), static_cast<int64_t>(order.size()), threshold,
          limit, scratch);
      std::copy_n(order.begin(), count_data[g], kept_data + g * limit);
    }
  });
}

std::tuple<Tensor, Tensor> grouped_nms(
    const Tensor& boxes_in, const Tensor& scores_in, double iou_threshold, int64_t max_kept,
    bool presorted) {
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  const Tensor scores = torch::stable::contiguous(scores_in);
  check_groups(boxes, scores, max_kept);
  const int64_t groups = boxes.size(0), limit = std::min(boxes.size(1), max_kept);
  Tensor kept = torch::stable::new_zeros(boxes, {groups, limit}, ScalarType::Long);
  Tensor counts = torch::stable::new_zeros(boxes, {groups}, ScalarType::Long);
  if (limit > 0 && boxes.scalar_type() == ScalarType::Double) {
    grouped_nms_typed<double>(boxes, scores, iou_threshold, presorted, kept, counts);
  } else if (limit > 0) {
    grouped_nms_typed<float>(boxes, scores, iou_threshold, presorted, kept, counts);
  }
  return {kept, counts};
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("grouped_nms", TORCH_BOX(&ops_cuda::cpu::grouped_nms));
}
