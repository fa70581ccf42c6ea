// Boxes are visited by descending score and compared with the boxes kept so far, a block at a time.

#include "suppression.h"

#include <limits>

#include "simd.h"

namespace ops_cuda::cpu {

constexpr int64_t kBlock = 64;

template <typename T>
void BoxColumns<T>::append(const T* box, T box_area) {
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

template <typename T>
void BoxColumns<T>::clear() {
  for (std::vector<T>* column : {&x1, &y1, &x2, &y2, &area}) column->clear();
  count = 0;
}

// Returns whether the IoU of `box` with any box in the `blocks` blocks is above the threshold.
template <typename T>
SHARED_INLINE bool overlaps_any_body(
    const T* __restrict box, T area, const T* __restrict x1, const T* __restrict y1,
    const T* __restrict x2, const T* __restrict y2, const T* __restrict areas, int64_t blocks,
    T exact, T rejected) {
  for (int64_t begin = 0; begin < blocks * kBlock; begin += kBlock) {
    int candidates = 0;
    for (int64_t i = begin; i < begin + kBlock; ++i) {
      const T shared = intersection_area(box, x1[i], y1[i], x2[i], y2[i]);
      candidates |= !(shared < rejected * (area + areas[i] - shared));
    }
    if (!candidates) continue;
    int overlaps = 0;
    for (int64_t i = begin; i < begin + kBlock; ++i) {
      const T shared = intersection_area(box, x1[i], y1[i], x2[i], y2[i]);
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

template <typename T>
int64_t suppress(
    const T* boxes, int64_t* members, int64_t count, const IouThreshold<T>& threshold,
    int64_t max_kept, BoxColumns<T>& kept) {
  kept.clear();
  for (int64_t i = 0; i < count && kept.count != max_kept; ++i) {
    const T* box = boxes + 4 * members[i];
    const T area = box_area(box);
    const int64_t blocks = (kept.count + kBlock - 1) / kBlock;
    if (overlaps_any(
            box, area, kept.x1.data(), kept.y1.data(), kept.x2.data(), kept.y2.data(),
            kept.area.data(), blocks, threshold.exact, threshold.rejected)) {
      continue;
    }
    members[kept.count] = members[i];
    kept.append(box, area);
  }
  return kept.count;
}

template struct BoxColumns<float>;
template struct BoxColumns<double>;
template int64_t suppress(
    const float*, int64_t*, int64_t, const IouThreshold<float>&, int64_t, BoxColumns<float>&);
template int64_t suppress(
    const double*, int64_t*, int64_t, const IouThreshold<double>&, int64_t,
    BoxColumns<double>&);

}  // namespace ops_cuda::cpu
