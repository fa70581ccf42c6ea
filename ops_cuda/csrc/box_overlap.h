// Overlap of two boxes, shared by CPU and CUDA.
//
// Computed as torchvision does, operation by operation, so that the kept indices are the same even
// if an IoU is at the threshold. A box with a NaN overlaps nothing.

#pragma once

#include <cmath>
#include <limits>

#include "portable.h"

namespace ops_cuda {

template <typename T>
struct IouThreshold {
  T exact;     // the largest T not above the threshold: both give the same comparisons
  T rejected;  // intersection < rejected * union rules an overlap out without dividing

  explicit IouThreshold(double threshold) : exact(static_cast<T>(threshold)) {
    if (exact > threshold) exact = std::nextafter(exact, T(-1));
    rejected = exact * (T(1) - 16 * std::numeric_limits<T>::epsilon());
  }
};

template <typename T>
SHARED_INLINE T box_area(const T* box) {
  return (box[2] - box[0]) * (box[3] - box[1]);
}

template <typename T>
SHARED_INLINE T intersection_area(const T* box, T x1, T y1, T x2, T y2) {
  const T left = box[0] < x1 ? x1 : box[0];
  const T top = box[1] < y1 ? y1 : box[1];
  const T right = box[2] < x2 ? box[2] : x2;
  const T bottom = box[3] < y2 ? box[3] : y2;
  const T width = right - left > T(0) ? right - left : T(0);
  const T height = bottom - top > T(0) ? bottom - top : T(0);
  return width * height;
}

}  // namespace ops_cuda
