// Suppression over all boxes, or within each class.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "ranking.h"
#include "suppression.h"

namespace ops_cuda::cpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Members of one class after another, within each in the order of `order`.
struct Segments {
  std::vector<int64_t> members;
  std::vector<int64_t> starts;  // of every class, and the end of the last
};

Segments split_by_class(const std::vector<int64_t>& order, const int64_t* classes) {
  const int64_t count = order.size();
  Segments segments{std::vector<int64_t>(count), {0}};
  if (count == 0) return segments;
  const auto [low, high] = std::minmax_element(classes, classes + count);
  // unsigned: the difference of any two numbers
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

// Marks what survives within its class; classes nullptr: all boxes are of one.
template <typename T>
void mark_survivors(
    const T* boxes, const std::vector<int64_t>& order, const int64_t* classes,
    double iou_threshold, int64_t max_kept, uint8_t* survives) {
  const int64_t count = order.size();
  const OverlapThreshold<T> threshold(iou_threshold);
  Segments segments =
      classes == nullptr ? Segments{order, {0, count}} : split_by_class(order, classes);
  const int64_t groups = segments.starts.size() - 1;
  // a few thousand boxes are done before a second thread has woken up
  const int64_t grain = std::max<int64_t>(1, groups * 8192 / std::max<int64_t>(count, 1));
  torch::stable::parallel_for(0, groups, grain, [&](int64_t first, int64_t last) {
    BoxColumns<T> scratch;
    for (int64_t i = first; i < last; ++i) {
      int64_t* members = segments.members.data() + segments.starts[i];
      const int64_t size = segments.starts[i + 1] - segments.starts[i];
      const int64_t kept = suppress(boxes, members, size, threshold, max_kept, scratch);
      for (int64_t k = 0; k < kept; ++k) survives[members[k]] = 1;
    }
  });
}

template <typename T>
Tensor nms_typed(
    const Tensor& boxes, const Tensor& scores, const int64_t* classes, double iou_threshold,
    int64_t max_kept) {
  const int64_t count = boxes.size(0);
  const std::vector<int64_t> order = rank_by_score(scores.const_data_ptr<T>(), count);
  std::vector<uint8_t> survives(count, 0);
  mark_survivors<T>(
      boxes.const_data_ptr<T>(), order, classes, iou_threshold, max_kept, survives.data());
  int64_t total = std::accumulate(survives.begin(), survives.end(), int64_t(0));
  if (max_kept >= 0) total = std::min(total, max_kept);
  Tensor kept = torch::stable::new_empty(boxes, {total}, ScalarType::Long);
  int64_t* output = kept.mutable_data_ptr<int64_t>();
  for (int64_t i = 0, written = 0; written < total; ++i) {
    if (survives[order[i]]) output[written++] = order[i];
  }
  return kept;
}

void check_boxes(const Tensor& boxes, const Tensor& scores) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "boxes must be (N, 4)");
  STD_TORCH_CHECK(
      scores.dim() == 1 && scores.size(0) == boxes.size(0), "scores must be (N,), one per box");
  STD_TORCH_CHECK(scores.scalar_type() == boxes.scalar_type(), "boxes and scores differ in type");
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

Tensor contiguous_classes(const Tensor& classes, const Tensor& boxes) {
  STD_TORCH_CHECK(
      classes.dim() == 1 && classes.size(0) == boxes.size(0) &&
          classes.scalar_type() == ScalarType::Long,
      "classes must be (N,) int64, one per box");
  return torch::stable::contiguous(classes);
}

Tensor nms(const Tensor& boxes, const Tensor& scores, double iou_threshold, int64_t max_kept) {
  return nms_any(boxes, scores, nullptr, iou_threshold, max_kept);
}

Tensor batched_nms(
    const Tensor& boxes, const Tensor& scores, const Tensor& classes_in, double iou_threshold,
    int64_t max_kept) {
  const Tensor classes = contiguous_classes(classes_in, boxes);
  return nms_any(
      boxes, scores, classes.const_data_ptr<int64_t>(), iou_threshold, max_kept);
}

template <typename T>
Tensor surviving_boxes_typed(
    const Tensor& boxes, const Tensor& scores, const int64_t* classes, double iou_threshold) {
  Tensor survives =
      torch::stable::new_zeros(boxes, {boxes.size(0)}, ScalarType::Bool);
  mark_survivors<T>(
      boxes.const_data_ptr<T>(), rank_by_score(scores.const_data_ptr<T>(), boxes.size(0)),
      classes, iou_threshold, -1, reinterpret_cast<uint8_t*>(survives.mutable_data_ptr()));
  return survives;
}

Tensor surviving_boxes(
    const Tensor& boxes_in, const Tensor& scores_in, const Tensor& classes_in,
    double iou_threshold) {
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  const Tensor scores = torch::stable::contiguous(scores_in);
  check_boxes(boxes, scores);
  const Tensor classes = contiguous_classes(classes_in, boxes);
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
  library.impl("surviving_boxes", TORCH_BOX(&ops_cuda::cpu::surviving_boxes));
}
