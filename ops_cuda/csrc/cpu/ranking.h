// The order in which torch sorts scores: best first, equal scores by index, NaN before all.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace ops_cuda::cpu {

// A score as a whole number, the smaller the better, and where it stands.
struct Ranked {
  uint32_t key, index;
};

constexpr int kDigitBits = 11;
constexpr uint32_t kDigits = 1u << kDigitBits;

inline uint32_t falling_key(float score) {
  if (std::isnan(score)) return 0;
  score += 0.0f;  // -0 and 0 are equal scores
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  // Of positive numbers the bits rise with the number, of negative ones they fall.
  return bits >> 31 ? bits : ~(bits | 1u << 31);
}

inline uint32_t leading_digit(uint32_t key) { return key >> (32 - kDigitBits); }

// By key; equal keys stay in their order.
void sort_by_key(std::vector<Ranked>& items);

// The indices of `scores`, best first.
std::vector<int64_t> rank_by_score(const float* scores, int64_t count);
std::vector<int64_t> rank_by_score(const double* scores, int64_t count);

}  // namespace ops_cuda::cpu
