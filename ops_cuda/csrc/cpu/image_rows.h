// Rows of RGB pixels: resized along either axis, normalized. Every function is compiled for several
// instruction sets and gives the same bits in each.

#pragma once

#include <cstdint>

namespace ops_cuda::cpu {

// Per channel of the output: (level - mean) * inverse_std; lane 3 is unused.
struct Normalization {
  float mean[4], inverse_std[4];
  bool reverse_channels;
};

// Source pixels of every output position along an axis: `taps` consecutive ones from first[i], with
// weights[i * taps ...]: float32 of the bilinear filter, fixed-point numbers of Pillow's.
template <typename Weight>
struct AxisWeights {
  int64_t length, taps;
  const int32_t* first;
  const Weight* weights;
};

// output[i] = sum over k of weights[k] * rows[k * stride + i], for `count` values.
void blend_rows(
    const uint8_t* rows, int64_t stride, const float* weights, int64_t taps, int64_t count,
    float* output);

// Stretches a row of pixels to columns.length pixels and normalizes them. One float after the last
// pixel of the row is read.
void stretch_and_normalize(
    const float* row, const AxisWeights<float>& columns, const Normalization& normalization,
    float* output);

// The rounded weighted sum of rows of `count` levels.
void blend_levels(
    const uint8_t* const* rows, const int32_t* weights, int64_t taps, int64_t count,
    uint8_t* output);

// Stretches a row of `count` levels to columns.length pixels, rounded. `levels` has room for
// count + 1 numbers, `sums` for 3 * columns.length + 1.
void stretch_levels(
    const uint8_t* row, int64_t count, const AxisWeights<int32_t>& columns, int32_t* levels,
    int32_t* sums, uint8_t* output);

// Normalizes `count` pixels without resizing.
void normalize_pixels(
    const uint8_t* pixels, int64_t count, const Normalization& normalization, float* output);

}  // namespace ops_cuda::cpu
