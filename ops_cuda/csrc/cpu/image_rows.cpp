// Vertically the vector is the row; horizontally it is the pixel: three channels in four lanes. A
// pixel is written with its idle lane, which the next pixel overwrites; the last pixel of a row is
// written without it.

#include "image_rows.h"

#include <cstring>

#include "simd.h"

namespace ops_cuda::cpu {

typedef float Pixel __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t Levels __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(4)));

MULTIVERSION void blend_rows(
    const uint8_t* __restrict rows, int64_t stride, const float* __restrict weights, int64_t taps,
    int64_t count, float* __restrict output) {
  constexpr int64_t block = 1024;  // the sums of this many values stay in the L1 cache
  for (int64_t begin = 0; begin < count; begin += block) {
    const int64_t end = begin + block < count ? begin + block : count;
    const uint8_t* row = rows;
    int64_t k = taps >= 2 ? 2 : 1;
    if (taps >= 2) {
      const uint8_t* next = row + stride;
      const float upper = weights[0], lower = weights[1];
      for (int64_t i = begin; i < end; ++i) output[i] = row[i] * upper + next[i] * lower;
    } else {
      const float weight = weights[0];
      for (int64_t i = begin; i < end; ++i) output[i] = row[i] * weight;
    }
    for (; k + 1 < taps; k += 2) {
      const uint8_t* further = row + k * stride;
      const uint8_t* next = further + stride;
      const float upper = weights[k], lower = weights[k + 1];
      for (int64_t i = begin; i < end; ++i) {
        output[i] = (output[i] + further[i] * upper) + next[i] * lower;
      }
    }
    if (k < taps) {
      const uint8_t* further = row + k * stride;
      const float weight = weights[k];
      for (int64_t i = begin; i < end; ++i) output[i] += further[i] * weight;
    }
  }
}

// Two taps, the case of every enlargement, are worth a specialized loop.
template <int fixed_taps>
SHARED_INLINE Pixel stretched_pixel(const float* row, const AxisWeights& columns, int64_t i) {
  const int64_t taps = fixed_taps > 0 ? fixed_taps : columns.taps;
  const float* pixels = row + 3 * columns.first[i];
  const float* weights = columns.weights + i * taps;
  Pixel sum = *reinterpret_cast<const Pixel*>(pixels) * weights[0];
  for (int64_t k = 1; k < taps; ++k) {
    sum += *reinterpret_cast<const Pixel*>(pixels + 3 * k) * weights[k];
  }
  return sum;
}

SHARED_INLINE Levels rounded(Pixel pixel) { return __builtin_convertvector(pixel + 0.5f, Levels); }

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

template <bool reverse, bool round_levels, int fixed_taps>
SHARED_INLINE void stretch_and_normalize_body(
    const float* row, const AxisWeights& columns, const Normalization& normalization,
    float* output) {
  const auto stretched = [&](int64_t i) {
    const Pixel pixel = stretched_pixel<fixed_taps>(row, columns, i);
    return round_levels ? __builtin_convertvector(rounded(pixel), Pixel) : pixel;
  };
  const int64_t last = columns.length - 1;
  for (int64_t i = 0; i < last; ++i) {
    store_normalized<reverse>(stretched(i), normalization, false, output + 3 * i);
  }
  store_normalized<reverse>(stretched(last), normalization, true, output + 3 * last);
}

template <bool reverse, bool round_levels>
SHARED_INLINE void stretch_and_normalize_taps(
    const float* row, const AxisWeights& columns, const Normalization& normalization,
    float* output) {
  if (columns.taps == 2) {
    stretch_and_normalize_body<reverse, round_levels, 2>(row, columns, normalization, output);
  } else {
    stretch_and_normalize_body<reverse, round_levels, 0>(row, columns, normalization, output);
  }
}

MULTIVERSION void stretch_and_normalize(
    const float* row, const AxisWeights& columns, const Normalization& normalization,
    float* output) {
  if (normalization.round_levels) {
    if (normalization.reverse_channels) {
      stretch_and_normalize_taps<true, true>(row, columns, normalization, output);
    } else {
      stretch_and_normalize_taps<false, true>(row, columns, normalization, output);
    }
  } else if (normalization.reverse_channels) {
    stretch_and_normalize_taps<true, false>(row, columns, normalization, output);
  } else {
    stretch_and_normalize_taps<false, false>(row, columns, normalization, output);
  }
}

template <int fixed_taps>
SHARED_INLINE void stretch_to_levels_body(
    const float* row, const AxisWeights& columns, uint8_t* output) {
  const int64_t last = columns.length - 1;
  for (int64_t i = 0; i <= last; ++i) {
    const Bytes pixel =
        __builtin_convertvector(rounded(stretched_pixel<fixed_taps>(row, columns, i)), Bytes);
    std::memcpy(output + 3 * i, &pixel, i < last ? 4 : 3);
  }
}

MULTIVERSION void stretch_to_levels(
    const float* row, const AxisWeights& columns, uint8_t* output) {
  if (columns.taps == 2) {
    stretch_to_levels_body<2>(row, columns, output);
  } else {
    stretch_to_levels_body<0>(row, columns, output);
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
