// Greedy suppression of boxes that come best first: what nms and grouped_nms share.

#pragma once

#include <cstdint>
#include <vector>

#include "../box_overlap.h"

namespace ops_cuda::cpu {

// Boxes as columns, padded to whole blocks with boxes that overlap nothing.
template <typename T>
struct BoxColumns {
  std::vector<T> x1, y1, x2, y2, area;
  int64_t count = 0;

  void append(const T* box, T box_area);
  void clear();
};

// Of `members`, indices into `boxes` by falling score, keeps those that no better kept one
// overlaps, at most `max_kept` (-1: all): they move to the front. Returns their number.
template <typename T>
int64_t suppress(
    const T* boxes, int64_t* members, int64_t count, const OverlapThreshold<T>& threshold,
    int64_t max_kept, BoxColumns<T>& scratch);

}  // namespace ops_cuda::cpu
