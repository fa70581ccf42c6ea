// Rows of RGB pixels: blended vertically, stretched horizontally, normalized. Every function is
// compiled for several instruction sets and gives the same bits in each.

#pragma once

#include <cstdint>

namespace ops_cuda::cpu {

// Per channel of the output: (level - mean) * inverse_std; lane 3 is unused.
struct Normalization {
  float mean[4], inverse_std[4];
  bool reverse_channels;
  bool round_levels;  // round resized levels before normalizing
};

// Source pixels of every output position along an axis: `taps` consecutive ones from first[i], with
// weights[i * taps ...].
struct AxisWeights {
  int64_t length, taps;
  const int32_t* first;
  const float* weights;
};

// output[i] = sum over k of weights[k] * rows[k * stride + i], for `count` values.
void blend_rows(
    const uint8_t* rows, int64_t stride, const float* weights, int64_t taps, int64_t count,
    float* output);

// Stretches a row of pixels to columns.length pixels, rounds them if `normalization` says so, and
// normalizes them. One float after the last pixel of the row is read.
void stretch_and_normalize(
    const float* row, const AxisWeights& columns, const Normalization& normalization,
    float* output);

// Stretches a row to rounded levels, without normalizing.
void stretch_to_levels(const float* row, const AxisWeights& columns, uint8_t* output);

// Normalizes `count` pixels without resizing.
void normalize_pixels(
    const uint8_t* pixels, int64_t count, const Normalization& normalization, float* output);

}  // namespace ops_cuda::cpu
