#include "resized_images.h"

#include "../preprocess.h"

namespace ops_cuda::cpu {

BilinearImage::BilinearImage(const Tensor& pixels, int64_t height, int64_t width)
    : view_(pixels, height, width),
      rows_(
          height, view_.source_height,
          [&](int64_t i) { return bilinear_taps(i, height, view_.source_height); }),
      columns_(width, view_.source_width, [&](int64_t i) {
        return bilinear_taps(i, width, view_.source_width);
      }) {}

void BilinearImage::write_row(
    int64_t y, const Normalization& normalization, Scratch& scratch, float* output) const {
  if (!view_.is_resized()) {
    normalize_pixels(view_.source_row(y), view_.width, normalization, output);
    return;
  }
  const AxisWeights<float> rows = rows_.view();
  const int64_t count = 3 * view_.source_width;
  scratch.row.resize(count + 1);
  scratch.row[count] = 0.0f;
  blend_rows(
      view_.source_row(rows.first[y]), view_.stride, rows.weights + y * rows.taps, rows.taps, count,
      scratch.row.data());
  stretch_and_normalize(scratch.row.data(), columns_.view(), normalization, output);
}

PillowImage::PillowImage(const Tensor& pixels, int64_t height, int64_t width)
    : view_(pixels, height, width),
      rows_first_(resizes_rows_first(height, width, view_.source_height, view_.source_width)),
      rows_(
          height, view_.source_height,
          [&](int64_t i) { return pillow_taps(i, height, view_.source_height); }),
      columns_(width, view_.source_width, [&](int64_t i) {
        return pillow_taps(i, width, view_.source_width);
      }) {}

const uint8_t* PillowImage::row(int64_t y, Scratch& scratch) const {
  if (!view_.is_resized()) return view_.source_row(y);
  if (view_.height == view_.source_height) {
    prepare(scratch);
    return stretched_row(y, scratch);
  }
  prepare(scratch);
  const AxisWeights<int32_t> rows = rows_.view();
  const bool stretches = view_.width != view_.source_width;
  for (int64_t k = 0; k < rows.taps; ++k) {
    const int64_t source = rows.first[y] + k;
    scratch.taps[k] =
        stretches && !rows_first_ ? stretched_row(source, scratch) : view_.source_row(source);
  }
  const int64_t width = rows_first_ ? view_.source_width : view_.width;
  blend_levels(
      scratch.taps.data(), rows.weights + y * rows.taps, rows.taps, 3 * width, scratch.row.data());
  if (!rows_first_ || !stretches) return scratch.row.data();
  stretch_levels(
      scratch.row.data(), 3 * view_.source_width, columns_.view(), scratch.levels.data(),
      scratch.sums.data(), scratch.stretched.data());
  return scratch.stretched.data();
}

void PillowImage::write_row(
    int64_t y, const Normalization& normalization, Scratch& scratch, float* output) const {
  normalize_pixels(row(y, scratch), view_.width, normalization, output);
}

void PillowImage::prepare(Scratch& scratch) const {
  if (scratch.owner == this) return;
  const int64_t slots = rows_.view().taps;
  scratch.owner = this;
  scratch.row.resize(3 * std::max(view_.width, view_.source_width));
  scratch.stretched.resize(slots * 3 * view_.width);
  scratch.stretched_rows.assign(slots, -1);
  scratch.levels.resize(3 * view_.source_width + 1);
  scratch.sums.resize(3 * view_.width + 1);
  scratch.taps.resize(slots);
}

const uint8_t* PillowImage::stretched_row(int64_t y, Scratch& scratch) const {
  const int64_t slot = y % static_cast<int64_t>(scratch.stretched_rows.size());
  uint8_t* output = scratch.stretched.data() + slot * 3 * view_.width;
  if (scratch.stretched_rows[slot] != y) {
    stretch_levels(
        view_.source_row(y), 3 * view_.source_width, columns_.view(), scratch.levels.data(),
        scratch.sums.data(), output);
    scratch.stretched_rows[slot] = y;
  }
  return output;
}

}  // namespace ops_cuda::cpu
