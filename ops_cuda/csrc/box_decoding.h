// From an anchor and its regression deltas to a proposal, for CPU and CUDA.
//
// Source: Girshick et al. 2014, appendix C. Operations come in the order of the twin's.

#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "portable.h"

namespace ops_cuda {

struct ProposalRules {
  float min_side;           // thinner boxes are dropped, pixels
  float largest_log_scale;  // of the deltas dw and dh
  float kept_side;          // what a box beyond the border keeps of the image, pixels
};

// NaN stays NaN.
SHARED_INLINE float clipped(float coordinate, float least, float most) {
  const float inside = coordinate < least ? least : coordinate;
  return inside > most ? most : inside;
}

// Writes the box inside its image, and the score it has: -inf, and a box of zeros, where the box
// is too thin or box or score is no number. `limits`: width, height, width, height of the image.
SHARED_INLINE float decode_proposal(
    const float* delta, const float* anchor, const float* limits, float score,
    const ProposalRules& rules, float* box) {
  for (int axis = 0; axis < 2; ++axis) {
    const float side = anchor[axis + 2] - anchor[axis];
    const float centre = delta[axis] * side + (anchor[axis] + 0.5f * side);
    const float log_scale = delta[axis + 2] > rules.largest_log_scale ? rules.largest_log_scale
                                                                      : delta[axis + 2];
    const float half = 0.5f * std::exp(log_scale) * side;
    box[axis] = clipped(centre - half, 0.0f, limits[axis] - rules.kept_side);
    box[axis + 2] = clipped(centre + half, rules.kept_side, limits[axis + 2]);
  }
  // written so that NaN is not large
  const bool large =
      box[2] - box[0] >= rules.min_side && box[3] - box[1] >= rules.min_side;
  if (large && score == score) return score;
  for (int k = 0; k < 4; ++k) box[k] = 0.0f;
  return -std::numeric_limits<float>::infinity();
}

}  // namespace ops_cuda
