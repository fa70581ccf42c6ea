#include "pixel_sums.h"

#include "simd.h"

namespace ops_cuda::cpu {

template <typename T>
SHARED_INLINE void sum_pixels_body(
    const T* map, const int64_t* offsets, const T* weights, int64_t pixels, int64_t channels,
    T* output) {
  using V = typename Lanes<T>::type;
  constexpr int64_t lanes = sizeof(V) / sizeof(T);
  int64_t c = 0;
  for (; c + 4 * lanes <= channels; c += 4 * lanes) {
    V a = {}, b = {}, d = {}, e = {};
    for (int64_t i = 0; i < pixels; ++i) {
      const V* row = reinterpret_cast<const V*>(map + offsets[i] + c);
      a += row[0] * weights[i];
      b += row[1] * weights[i];
      d += row[2] * weights[i];
      e += row[3] * weights[i];
    }
    V* out = reinterpret_cast<V*>(output + c);
    out[0] = a, out[1] = b, out[2] = d, out[3] = e;
  }
  for (; c + lanes <= channels; c += lanes) {
    V a = {};
    for (int64_t i = 0; i < pixels; ++i) {
      a += *reinterpret_cast<const V*>(map + offsets[i] + c) * weights[i];
    }
    *reinterpret_cast<V*>(output + c) = a;
  }
  for (; c < channels; ++c) {
    T sum = 0;
    for (int64_t i = 0; i < pixels; ++i) sum += map[offsets[i] + c] * weights[i];
    output[c] = sum;
  }
}

MULTIVERSION void sum_pixels(
    const float* map, const int64_t* offsets, const float* weights, int64_t pixels,
    int64_t channels, float* output) {
  sum_pixels_body(map, offsets, weights, pixels, channels, output);
}

MULTIVERSION void sum_pixels(
    const double* map, const int64_t* offsets, const double* weights, int64_t pixels,
    int64_t channels, double* output) {
  sum_pixels_body(map, offsets, weights, pixels, channels, output);
}

template <typename T>
SHARED_INLINE void add_to_pixels_body(
    const T* __restrict gradient, const int64_t* offsets, const T* weights, int64_t pixels,
    int64_t channels, T* __restrict map) {
  for (int64_t i = 0; i < pixels; ++i) {
    T* row = map + offsets[i];
    const T weight = weights[i];
    for (int64_t c = 0; c < channels; ++c) row[c] += gradient[c] * weight;
  }
}

MULTIVERSION void add_to_pixels(
    const float* gradient, const int64_t* offsets, const float* weights, int64_t pixels,
    int64_t channels, float* map) {
  add_to_pixels_body(gradient, offsets, weights, pixels, channels, map);
}

MULTIVERSION void add_to_pixels(
    const double* gradient, const int64_t* offsets, const double* weights, int64_t pixels,
    int64_t channels, double* map) {
  add_to_pixels_body(gradient, offsets, weights, pixels, channels, map);
}

template <typename T>
SHARED_INLINE void dot_pixels_body(
    const T* gradient, const T* map, const int64_t* offsets, int64_t pixels, int64_t channels,
    T* sums) {
  using V = typename Lanes<T>::type;
  constexpr int64_t lanes = sizeof(V) / sizeof(T);
  for (int64_t i = 0; i < pixels; ++i) {
    const T* row = map + offsets[i];
    V parts = {};
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) {
      parts += *reinterpret_cast<const V*>(gradient + c) * *reinterpret_cast<const V*>(row + c);
    }
    T sum = 0;
    for (int64_t lane = 0; lane < lanes; ++lane) sum += parts[lane];
    for (; c < channels; ++c) sum += gradient[c] * row[c];
    sums[i] = sum;
  }
}

MULTIVERSION void dot_pixels(
    const float* gradient, const float* map, const int64_t* offsets, int64_t pixels,
    int64_t channels, float* sums) {
  dot_pixels_body(gradient, map, offsets, pixels, channels, sums);
}

MULTIVERSION void dot_pixels(
    const double* gradient, const double* map, const int64_t* offsets, int64_t pixels,
    int64_t channels, double* sums) {
  dot_pixels_body(gradient, map, offsets, pixels, channels, sums);
}

}  // namespace ops_cuda::cpu
