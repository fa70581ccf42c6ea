// Vertically the vector is the row; horizontally it is the pixel: three channels in four lanes. A
// pixel is written with its idle lane, which the next pixel overwrites; the last pixel of a row is
// written without it.

#include "image_rows.h"

#include <algorithm>
#include <cstring>

#include "../preprocess.h"
#include "simd.h"

namespace ops_cuda::cpu {

typedef float Pixel __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t Levels __attribute__((vector_size(16), aligned(4), may_alias));
typedef uint8_t Bytes __attribute__((vector_size(4)));

MULTIVERSION void blend_rows(
    const uint8_t* __restrict rows, int64_t stride, const float* __restrict weights, int64_t taps,
    int64_t count, float* __restrict output) {
  const uint8_t* next = rows + (taps - 1) * stride;
  const float upper = weights[0], lower = taps > 1 ? weights[1] : 0.0f;
  for (int64_t i = 0; i < count; ++i) output[i] = rows[i] * upper + next[i] * lower;
}

template <bool reverse>
SHARED_INLINE void store_normalized(
    Pixel levels, const Normalization& normalization, bool last, float* out) {
  if (reverse) levels = __builtin_shuffle(levels, Levels{2, 1, 0, 3});
  const Pixel mean = *reinterpret_cast<const Pixel*>(normalization.mean);
  const Pixel inverse_std = *reinterpret_cast<const Pixel*>(normalization.inverse_std);
  const Pixel value = (levels - mean) * inverse_std;
  if (last) {
    std::memcpy(out, &value, 3 * sizeof(float));
  } else {
    *reinterpret_cast<Pixel*>(out) = value;
  }
}

template <bool reverse>
SHARED_INLINE void stretch_and_normalize_body(
    const float* row, const AxisWeights<float>& columns, const Normalization& normalization,
    float* output) {
  for (int64_t i = 0; i < columns.length; ++i) {
    const float* pixel = row + 3 * columns.first[i];
    const float* weights = columns.weights + i * columns.taps;
    Pixel sum = *reinterpret_cast<const Pixel*>(pixel) * weights[0];
    if (columns.taps > 1) sum += *reinterpret_cast<const Pixel*>(pixel + 3) * weights[1];
    store_normalized<reverse>(sum, normalization, i == columns.length - 1, output + 3 * i);
  }
}

MULTIVERSION void stretch_and_normalize(
    const float* row, const AxisWeights<float>& columns, const Normalization& normalization,
    float* output) {
  if (normalization.reverse_channels) {
    stretch_and_normalize_body<true>(row, columns, normalization, output);
  } else {
    stretch_and_normalize_body<false>(row, columns, normalization, output);
  }
}

MULTIVERSION void blend_levels(
    const uint8_t* const* rows, const int32_t* __restrict weights, int64_t taps, int64_t count,
    uint8_t* __restrict output) {
  if (taps == 2) {  // every enlargement
    const uint8_t *__restrict row = rows[0], *__restrict next = rows[1];
    const int32_t upper = weights[0], lower = weights[1];
    for (int64_t i = 0; i < count; ++i) {
      output[i] =
          static_cast<uint8_t>((row[i] * upper + next[i] * lower + kPillowHalf) >> kPillowBits);
    }
    return;
  }
  constexpr int64_t block = 1024;  // the sums of this many values stay in the L1 cache
  int32_t sums[block];
  for (int64_t begin = 0; begin < count; begin += block) {
    const int64_t length = std::min(block, count - begin);
    for (int64_t i = 0; i < length; ++i) sums[i] = kPillowHalf;
    for (int64_t k = 0; k < taps; ++k) {
      const uint8_t* __restrict row = rows[k] + begin;
      const int32_t weight = weights[k];
      for (int64_t i = 0; i < length; ++i) sums[i] += row[i] * weight;
    }
    for (int64_t i = 0; i < length; ++i) {
      output[begin + i] = static_cast<uint8_t>(sums[i] >> kPillowBits);
    }
  }
}

template <int fixed_taps>
SHARED_INLINE void stretch_levels_body(
    const int32_t* levels, const AxisWeights<int32_t>& columns, int32_t* sums) {
  const int64_t taps = fixed_taps > 0 ? fixed_taps : columns.taps;
  for (int64_t i = 0; i < columns.length; ++i) {
    const int32_t* pixel = levels + 3 * columns.first[i];
    const int32_t* weights = columns.weights + i * taps;
    Levels sum{kPillowHalf, kPillowHalf, kPillowHalf, kPillowHalf};
    for (int64_t k = 0; k < taps; ++k) {
      sum += *reinterpret_cast<const Levels*>(pixel + 3 * k) * weights[k];
    }
    *reinterpret_cast<Levels*>(sums + 3 * i) = sum;
  }
}

MULTIVERSION void stretch_levels(
    const uint8_t* __restrict row, int64_t count, const AxisWeights<int32_t>& columns,
    int32_t* __restrict levels, int32_t* __restrict sums, uint8_t* __restrict output) {
  for (int64_t i = 0; i < count; ++i) levels[i] = row[i];
  levels[count] = 0;  // the idle lane of the last pixel
  switch (columns.taps) {
    case 2: stretch_levels_body<2>(levels, columns, sums); break;
    case 3: stretch_levels_body<3>(levels, columns, sums); break;
    case 4: stretch_levels_body<4>(levels, columns, sums); break;
    case 5: stretch_levels_body<5>(levels, columns, sums); break;
    default: stretch_levels_body<0>(levels, columns, sums);
  }
  for (int64_t i = 0; i < 3 * columns.length; ++i) {
    output[i] = static_cast<uint8_t>(sums[i] >> kPillowBits);
  }
}

template <bool reverse>
SHARED_INLINE void normalize_pixels_body(
    const uint8_t* pixels, int64_t count, const Normalization& normalization, float* output) {
  for (int64_t i = 0; i < count; ++i) {
    Bytes pixel{};
    std::memcpy(&pixel, pixels + 3 * i, i < count - 1 ? 4 : 3);
    const Pixel levels = __builtin_convertvector(__builtin_convertvector(pixel, Levels), Pixel);
    store_normalized<reverse>(levels, normalization, i == count - 1, output + 3 * i);
  }
}

MULTIVERSION void normalize_pixels(
    const uint8_t* pixels, int64_t count, const Normalization& normalization, float* output) {
  if (normalization.reverse_channels) {
    normalize_pixels_body<true>(pixels, count, normalization, output);
  } else {
    normalize_pixels_body<false>(pixels, count, normalization, output);
  }
}

}  // namespace ops_cuda::cpu
