#include "stretched_mask.h"

#include <algorithm>

#include "simd.h"

namespace ops_cuda::cpu {

void AxisSamples::fill(const MaskAxis& axis, int64_t begin, int64_t end, int64_t source) {
  low.resize(end - begin);
  high.resize(end - begin);
  fraction.resize(end - begin);
  for (int64_t i = begin; i < end; ++i) {
    const MaskSample sample = axis.sample(i, source);
    low[i - begin] = static_cast<int32_t>(sample.low);
    high[i - begin] = static_cast<int32_t>(sample.high);
    fraction[i - begin] = sample.fraction;
  }
}

MULTIVERSION void stretch_row(
    const float* __restrict row, const int32_t* __restrict low, const int32_t* __restrict high,
    const float* __restrict fraction, int64_t count, float* __restrict wide) {
  for (int64_t i = 0; i < count; ++i) wide[i] = blend(row[low[i]], row[high[i]], fraction[i]);
}

void StretchedMask::fill(
    const float* mask, int64_t side, const MaskExtent& extent, int64_t height, int64_t width) {
  left = std::max<int64_t>(extent.x.first, 0), right = std::min(extent.x.last + 1, width);
  top = std::max<int64_t>(extent.y.first, 0), bottom = std::min(extent.y.last + 1, height);
  if (left >= right || top >= bottom) {
    left = right = top = bottom = 0;
    return;
  }
  const int64_t source = side + 2, count = right - left;
  columns_.fill(extent.x, left, right, source);
  rows_.fill(extent.y, top, bottom, source);

  padded_.assign(source * source, 0.0f);
  for (int64_t i = 0; i < side; ++i) {
    std::copy_n(mask + i * side, side, padded_.data() + (i + 1) * source + 1);
  }
  stride_ = (count + kColumns - 1) / kColumns * kColumns;
  stretched_.assign(source * stride_, 0.0f);
  for (int64_t i = 0; i < source; ++i) {
    stretch_row(
        padded_.data() + i * source, columns_.low.data(), columns_.high.data(),
        columns_.fraction.data(), count, stretched_.data() + i * stride_);
  }
}

}  // namespace ops_cuda::cpu
