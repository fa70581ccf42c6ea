// Greedy non-maximum suppression. Boxes are visited best score first and compared with the boxes
// kept so far, a block at a time.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "../box_overlap.h"
#include "simd.h"

namespace ops_cuda::cpu {

using torch::stable::Tensor;

constexpr int64_t kBlock = 64;

// Boxes as columns, padded to whole blocks with boxes that overlap nothing.
template <typename T>
struct BoxColumns {
  std::vector<T> x1, y1, x2, y2, area;
  int64_t count = 0;

  void append(const T* box, T box_area) {
    if (count % kBlock == 0) {
      const T infinity = std::numeric_limits<T>::infinity();
      x1.resize(count + kBlock, infinity);
      y1.resize(count + kBlock, infinity);
      x2.resize(count + kBlock, -infinity);
      y2.resize(count + kBlock, -infinity);
      area.resize(count + kBlock, T(0));
    }
    x1[count] = box[0];
    y1[count] = box[1];
    x2[count] = box[2];
    y2[count] = box[3];
    area[count++] = box_area;
  }
};

// Whether any of the `blocks` blocks of kept boxes overlaps `box` by more than the threshold.
template <typename T>
SHARED_INLINE bool overlaps_any_body(
    const T* __restrict box, T area, const T* __restrict x1, const T* __restrict y1,
    const T* __restrict x2, const T* __restrict y2, const T* __restrict areas, int64_t blocks,
    T exact, T rejected) {
  for (int64_t begin = 0; begin < blocks * kBlock; begin += kBlock) {
    int candidates = 0;
    for (int64_t i = begin; i < begin + kBlock; ++i) {
      const T shared = shared_area(box, x1[i], y1[i], x2[i], y2[i]);
      candidates |= !(shared < rejected * (area + areas[i] - shared));
    }
    if (!candidates) continue;
    int overlaps = 0;
    for (int64_t i = begin; i < begin + kBlock; ++i) {
      const T shared = shared_area(box, x1[i], y1[i], x2[i], y2[i]);
      overlaps |= shared / (area + areas[i] - shared) > exact;
    }
    if (overlaps) return true;
  }
  return false;
}

MULTIVERSION bool overlaps_any(
    const float* box, float area, const float* x1, const float* y1, const float* x2,
    const float* y2, const float* areas, int64_t blocks, float exact, float rejected) {
  return overlaps_any_body(box, area, x1, y1, x2, y2, areas, blocks, exact, rejected);
}

MULTIVERSION bool overlaps_any(
    const double* box, double area, const double* x1, const double* y1, const double* x2,
    const double* y2, const double* areas, int64_t blocks, double exact, double rejected) {
  return overlaps_any_body(box, area, x1, y1, x2, y2, areas, blocks, exact, rejected);
}

// Indices by falling score, equal scores by index; NaN first, as torch sorts.
template <typename T>
std::vector<int64_t> rank_by_score(const T* scores, int64_t count) {
  struct Scored {
    T score;
    int64_t index;
  };
  std::vector<Scored> scored(count);
  for (int64_t i = 0; i < count; ++i) {
    const T score = scores[i];
    scored[i] = {std::isnan(score) ? std::numeric_limits<T>::infinity() : score, i};
  }
  const auto first_nan = std::stable_partition(
      scored.begin(), scored.end(), [&](const Scored& s) { return std::isnan(scores[s.index]); });
  std::sort(first_nan, scored.end(), [](const Scored& a, const Scored& b) {
    return a.score != b.score ? a.score > b.score : a.index < b.index;
  });
  std::vector<int64_t> order(count);
  for (int64_t i = 0; i < count; ++i) order[i] = scored[i].index;
  return order;
}

// Marks the survivors among order[begin:end], boxes of one class by falling score.
template <typename T>
void suppress(
    const T* boxes, const int64_t* begin, const int64_t* end, OverlapThreshold<T> threshold,
    int64_t max_kept, uint8_t* survives) {
  BoxColumns<T> kept;
  for (const int64_t* index = begin; index != end && kept.count != max_kept; ++index) {
    const T* box = boxes + 4 * *index;
    const T area = box_area(box);
    const int64_t blocks = (kept.count + kBlock - 1) / kBlock;
    if (overlaps_any(
            box, area, kept.x1.data(), kept.y1.data(), kept.x2.data(), kept.y2.data(),
            kept.area.data(), blocks, threshold.exact, threshold.rejected)) {
      continue;
    }
    kept.append(box, area);
    survives[*index] = 1;
  }
}

// Starts of the runs of equal class in `members`, and its end.
std::vector<int64_t> class_starts(const std::vector<int64_t>& members, const int64_t* classes) {
  std::vector<int64_t> starts{0};
  for (size_t i = 1; i < members.size(); ++i) {
    if (classes[members[i]] != classes[members[i - 1]]) starts.push_back(i);
  }
  starts.push_back(members.size());
  return starts;
}

template <typename T>
Tensor nms_typed(
    const Tensor& boxes, const Tensor& scores, const int64_t* classes, double iou_threshold,
    int64_t max_kept) {
  const int64_t count = boxes.size(0);
  const T* box_data = boxes.const_data_ptr<T>();
  const std::vector<int64_t> order = rank_by_score(scores.const_data_ptr<T>(), count);
  const OverlapThreshold<T> threshold(iou_threshold);
  std::vector<uint8_t> survives(count, 0);

  if (classes == nullptr) {
    suppress(
        box_data, order.data(), order.data() + count, threshold, max_kept, survives.data());
  } else if (count > 0) {
    std::vector<int64_t> members = order;
    std::stable_sort(members.begin(), members.end(), [&](int64_t a, int64_t b) {
      return classes[a] < classes[b];
    });
    const std::vector<int64_t> starts = class_starts(members, classes);
    const int64_t groups = starts.size() - 1;
    // a few thousand boxes are done before a second thread has woken up
    const int64_t grain = std::max<int64_t>(1, groups * 8192 / count);
    torch::stable::parallel_for(0, groups, grain, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        suppress(
            box_data, members.data() + starts[i], members.data() + starts[i + 1], threshold,
            max_kept, survives.data());
      }
    });
  }

  int64_t total = std::accumulate(survives.begin(), survives.end(), int64_t(0));
  if (max_kept >= 0) total = std::min(total, max_kept);
  Tensor kept = torch::stable::new_empty(boxes, {total}, torch::headeronly::ScalarType::Long);
  int64_t* output = kept.mutable_data_ptr<int64_t>();
  for (int64_t i = 0, written = 0; written < total; ++i) {
    if (survives[order[i]]) output[written++] = order[i];
  }
  return kept;
}

Tensor nms_any(
    const Tensor& boxes_in, const Tensor& scores_in, const int64_t* classes, double iou_threshold,
    int64_t max_kept) {
  const Tensor boxes = torch::stable::contiguous(boxes_in);
  const Tensor scores = torch::stable::contiguous(scores_in);
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "boxes must be (N, 4)");
  STD_TORCH_CHECK(
      scores.dim() == 1 && scores.size(0) == boxes.size(0), "scores must be (N,), one per box");
  STD_TORCH_CHECK(scores.scalar_type() == boxes.scalar_type(), "boxes and scores differ in type");
  if (boxes.scalar_type() == torch::headeronly::ScalarType::Double) {
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
      classes.dim() == 1 && classes.size(0) == boxes.size(0), "classes must be (N,), one per box");
  return nms_any(
      boxes, scores, classes.const_data_ptr<int64_t>(), iou_threshold, max_kept);
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("nms", TORCH_BOX(&ops_cuda::cpu::nms));
  library.impl("batched_nms", TORCH_BOX(&ops_cuda::cpu::batched_nms));
}
