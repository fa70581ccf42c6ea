// Greedy suppression of boxes sorted by score, shared by nms and grouped_nms.

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

// Suppresses among `members`, indices into `boxes` by descending score. The kept ones, at most
// `max_kept` (-1: all), are moved to the front. Returns their number.
template <typename T>
int64_t suppress(
    const T* boxes, int64_t* members, int64_t count, const IouThreshold<T>& threshold,
    int64_t max_kept, BoxColumns<T>& scratch);

}  // namespace ops_cuda::cpu
