// The interpolation weights of a whole axis, computed once per image.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "image_rows.h"

namespace ops_cuda::cpu {

// The same number of taps for every position, padded with zeros.
template <typename Weight>
class Axis {
 public:
  // taps(i): the BilinearTaps or PillowTaps of position i.
  template <typename TapsOf>
  Axis(int64_t length, int64_t source, const TapsOf& taps_of) : first_(length) {
    std::vector<decltype(taps_of(0))> all;
    for (int64_t i = 0; i < length; ++i) {
      all.push_back(taps_of(i));
      taps_ = std::max(taps_, all[i].count);
    }
    weights_.resize(length * taps_);
    for (int64_t i = 0; i < length; ++i) {
      const int64_t first = std::min(all[i].first, source - taps_);
      first_[i] = static_cast<int32_t>(first);
      for (int64_t k = 0; k < all[i].count; ++k) {
        weights_[i * taps_ + all[i].first - first + k] = all[i].weight(k);
      }
    }
  }

  AxisWeights<Weight> view() const {
    return {static_cast<int64_t>(first_.size()), taps_, first_.data(), weights_.data()};
  }

 private:
  int64_t taps_ = 1;
  std::vector<int32_t> first_;
  std::vector<Weight> weights_;
};

}  // namespace ops_cuda::cpu
