// Ranking of scores as torch sorts them: highest first, equal scores by index, NaN before all.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace ops_cuda::cpu {

// A score as an integer key, smaller for higher scores, and its index.
struct Ranked {
  uint32_t key, index;
};

constexpr int kDigitBits = 11;
constexpr uint32_t kDigits = 1u << kDigitBits;

inline uint32_t descending_key(float score) {
  if (std::isnan(score)) return 0;
  score += 0.0f;  // -0 and 0 are equal scores
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  // The bits of positive numbers ascend with the number, those of negative numbers descend.
  return bits >> 31 ? bits : ~(bits | 1u << 31);
}

inline uint32_t leading_digit(uint32_t key) { return key >> (32 - kDigitBits); }

// Sorts by key; the sort is stable.
void sort_by_key(std::vector<Ranked>& items);

// Returns the indices of `scores`, highest score first.
std::vector<int64_t> rank_by_score(const float* scores, int64_t count);
std::vector<int64_t> rank_by_score(const double* scores, int64_t count);

}  // namespace ops_cuda::cpu
