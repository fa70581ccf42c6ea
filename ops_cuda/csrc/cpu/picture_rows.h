// Rows of RGB pixels: blended vertically, stretched horizontally, normalised. Every function is
// compiled for several instruction sets and gives the same bits in each.

#pragma once

#include <cstdint>

namespace ops_cuda::cpu {

// Per channel of the output: (level - mean) * inverse_std; lane 3 is not used.
struct Normalisation {
  float mean[4], inverse_std[4];
  bool reverse_channels;
  bool whole_levels;  // round what was resized first
};

// Source pixels of every output position along an axis: `taps` consecutive ones each, from
// first[i], with weights[i * taps ...].
struct AxisWeights {
  int64_t length, taps;
  const int32_t* first;
  const float* weights;
};

// output[i] = sum over k of weights[k] * rows[k * stride + i], for `count` values.
void blend_rows(
    const uint8_t* rows, int64_t stride, const float* weights, int64_t taps, int64_t count,
    float* output);

// A row of pixels (one float more than its pixels need is read) to columns.length pixels, rounded
// to whole levels where the rule says so, and normalised.
void stretch_and_normalise(
    const float* row, const AxisWeights& columns, const Normalisation& rule, float* output);

// The same to levels.
void stretch_to_levels(const float* row, const AxisWeights& columns, uint8_t* output);

// `count` pixels as they are, normalised.
void normalise_pixels(
    const uint8_t* pixels, int64_t count, const Normalisation& rule, float* output);

}  // namespace ops_cuda::cpu
