// The overlap of two boxes and what it makes of a candidate, for CPU and CUDA.
//
// The arithmetic is torchvision's box_iou in float32, operation by operation, so that candidates
// tie, and overlaps meet a threshold, where they do there.

#pragma once

#include <cstdint>

#include "box_overlap.h"
#include "portable.h"

namespace ops_cuda {

constexpr int64_t kPositive = 1, kNegative = 0, kIgnored = -1;

struct MatchThresholds {
  float positive, negative;  // rounded as torch rounds a number it compares with a float tensor

  MatchThresholds(double positive, double negative)
      : positive(static_cast<float>(positive)), negative(static_cast<float>(negative)) {}

  SHARED_INLINE int64_t judge(float best) const {
    return best >= positive ? kPositive : best >= negative ? kIgnored : kNegative;
  }
};

}  // namespace ops_cuda
