// NMS over all boxes, or within each class.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "../nms.h"
#include "ranking.h"
#include "suppression.h"

namespace ops_cuda::cpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Box indices grouped by class, within each class by descending score.
struct Segments {
  std::vector<int64_t> members;
  std::vector<int64_t> starts;  // of each class, and the end of the last
};

Segments split_by_class(const std::vector<int64_t>& order, const int64_t* classes) {
  const int64_t count = order.size();
  Segments segments{std::vector<int64_t>(count), {0}};
  if (count == 0) return segments;
  const auto [low, high] = std::minmax_element(classes, classes + count);
  // unsigned: holds the difference of any two numbers
  const uint64_t span = static_cast<uint64_t>(*high) - static_cast<uint64_t>(*low);
  if (span < static_cast<uint64_t>(4 * count + 1024)) {
    std::vector<int64_t> next(span + 2, 0);
    for (int64_t i = 0; i < count; ++i) ++next[classes[i] - *low + 1];
    for (uint64_t i = 1; i < next.size(); ++i) {
      if (next[i] > 0) segments.starts.push_back(segments.starts.back() + next[i]);
      next[i] += next[i - 1];
    }
    for (const int64_t i : order) segments.members[next[classes[i] - *low]++] = i;
    return segments;
  }
  segments.members = order;
  std::stable_sort(segments.members.begin(), segments.members.end(), [&](int64_t a, int64_t b) {
    return classes[a] < classes[b];
  });
  for (int64_t i = 1; i < count; ++i) {
    if (classes[segments.members[i]] != classes[segments.members[i - 1]]) {
      segments.starts.push_back(i);
    }
  }
  segments.starts.push_back(count);
  return segments;
}

// Marks the boxes kept within their class; if `classes` is nullptr, all boxes are of one class.
template <typename T>
void mark_kept(
    const T* boxes, const std::vector<int64_t>& order, const int64_t* classes,
    double iou_threshold, int64_t max_kept, uint8_t* is_kept) {
  const int64_t count = order.size();
  const IouThreshold<T> threshold(iou_threshold);
  Segments segments =
      classes == nullptr ? Segments{order, {0, count}} : split_by_class(order, classes);
  const int64_t groups = segments.starts.size() - 1;
  // a few thousand boxes are done before a second thread wakes up
  const int64_t grain = std::max<int64_t>(1, groups * 8192 / std::max<int64_t>(count, 1));
  torch::stable::parallel_for(0, groups, grain, [&](int64_t first, int64_t last) {
    BoxColumns<T> scratch;
    for (int64_t i = first; i < last; ++i) {
      int64_t* members = segments.members.data() + segments.starts[i];
      const int64_t size = segments.starts[i + 1] - segments.starts[i];
      const int64_t kept = suppress(boxes, members, size, threshold, max_kept, scratch);
      for (int64_t k = 0; k < kept; ++k) is_kept[members[k]] = 1;
    }
  });
}

template <typename T>
Tensor nms_typed(
    const Tensor& boxes, const Tensor& scores, const int64_t* classes, double iou_threshold,
    int64_t max_kept) {
  const int64_t count = boxes.size(0);
  const std::vector<int64_t> order = rank_by_score(scores.const_data_ptr<T>(), count);
  std::vector<uint8_t> is_kept(count, 0);
  mark_kept<T>(
      boxes.const_data_ptr<T>(), order, classes, iou_threshold, max_kept, is_kept.data());
  int64_t total = std::accumulate(is_kept.begin(), is_kept.end(), int64_t(0));
  if (max_kept >= 0) total = std::min(total, max_kept);
  Tensor kept = torch::stable::new_empty(boxes, {total}, ScalarType::Long);
  int64_t* output = kept.mutable_data_ptr<int64_t>();
  for (int64_t i = 0, written = 0; written < total; ++i) {
    if (is_kept[order[i]]) output[written++] = order[i];
  }
  return kept;
}

Tensor nms_any(
    const Tensor& boxes_in, const Tensor& scores_in, const int64_t* classes, double iou_threshold,
    int64_t max_kept) {
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  const Tensor scores = torch::stable::contiguous(scores_in);
  check_boxes(boxes, scores);
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
  check_classes(boxes, classes_in);
  const Tensor classes = torch::stable::contiguous(classes_in);
  return nms_any(
      boxes, scores, classes.const_data_ptr<int64_t>(), iou_threshold, max_kept);
}

template <typename T>
Tensor surviving_boxes_typed(
    const Tensor& boxes, const Tensor& scores, const int64_t* classes, double iou_threshold) {
  Tensor is_kept =
      torch::stable::new_zeros(boxes, {boxes.size(0)}, ScalarType::Bool);
  mark_kept<T>(
      boxes.const_data_ptr<T>(), rank_by_score(scores.const_data_ptr<T>(), boxes.size(0)),
      classes, iou_threshold, -1, reinterpret_cast<uint8_t*>(is_kept.mutable_data_ptr()));
  return is_kept;
}

Tensor batched_nms_mask(
    const Tensor& boxes_in, const Tensor& scores_in, const Tensor& classes_in,
    double iou_threshold) {
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  const Tensor scores = torch::stable::contiguous(scores_in);
  check_boxes(boxes, scores);
  check_classes(boxes, classes_in);
  const Tensor classes = torch::stable::contiguous(classes_in);
  const int64_t* labels = classes.const_data_ptr<int64_t>();
  if (boxes.scalar_type() == ScalarType::Double) {
    return surviving_boxes_typed<double>(boxes, scores, labels, iou_threshold);
  }
  return surviving_boxes_typed<float>(boxes, scores, labels, iou_threshold);
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("nms", TORCH_BOX(&ops_cuda::cpu::nms));
  library.impl("batched_nms", TORCH_BOX(&ops_cuda::cpu::batched_nms));
  library.impl("batched_nms_mask", TORCH_BOX(&ops_cuda::cpu::batched_nms_mask));
}
