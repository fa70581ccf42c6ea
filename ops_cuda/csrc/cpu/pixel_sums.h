// Inner loops of ROI align and deformable convolution: weighted sums over pixels, each a row of
// channels.

#pragma once

#include <cstdint>

namespace ops_cuda::cpu {

// output[c] = sum over i of weights[i] * map[offsets[i] + c]
void sum_pixels(
    const float* map, const int64_t* offsets, const float* weights, int64_t pixels,
    int64_t channels, float* output);
void sum_pixels(
    const double* map, const int64_t* offsets, const double* weights, int64_t pixels,
    int64_t channels, double* output);

// map[offsets[i] + c] += weights[i] * gradient[c], in the order of i
void add_to_pixels(
    const float* gradient, const int64_t* offsets, const float* weights, int64_t pixels,
    int64_t channels, float* map);
void add_to_pixels(
    const double* gradient, const int64_t* offsets, const double* weights, int64_t pixels,
    int64_t channels, double* map);

// sums[i] = sum over c of gradient[c] * map[offsets[i] + c], in the same order on every machine
void dot_pixels(
    const float* gradient, const float* map, const int64_t* offsets, int64_t pixels,
    int64_t channels, float* sums);
void dot_pixels(
    const double* gradient, const double* map, const int64_t* offsets, int64_t pixels,
    int64_t channels, double* sums);

}  // namespace ops_cuda::cpu
