// Resizing, normalizing and padding of a batch in one pass: each row of the batch is blended from
// its source rows into a buffer, then stretched, rounded if required, and normalized into the
// batch.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "../preprocess.h"
#include "huge_pages.h"
#include "image_rows.h"

namespace ops_cuda::cpu {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The weights of a whole axis, with the same number of taps per position, padded with zeros.
class Axis {
 public:
  Axis(int64_t length, int64_t source, bool antialias) {
    std::vector<AxisTaps> all(length);
    for (int64_t i = 0; i < length; ++i) {
      all[i] = axis_taps(i, length, source, antialias);
      taps_ = std::max(taps_, all[i].count);
    }
    first_.resize(length);
    weights_.resize(length * taps_);
    for (int64_t i = 0; i < length; ++i) {
      const int64_t first = std::min(all[i].first, source - taps_);
      first_[i] = static_cast<int32_t>(first);
      for (int64_t k = 0; k < all[i].count; ++k) {
        weights_[i * taps_ + all[i].first - first + k] = all[i].weight(k);
      }
    }
  }

  AxisWeights view() const {
    return {static_cast<int64_t>(first_.size()), taps_, first_.data(), weights_.data()};
  }

 private:
  int64_t taps_ = 1;
  std::vector<int32_t> first_;
  std::vector<float> weights_;
};

// A source image and how it is resized.
class SourceImage {
 public:
  SourceImage(const Tensor& pixels, int64_t height, int64_t width, bool antialias)
      : data_(pixels.const_data_ptr<uint8_t>()),
        stride_(pixels.stride(0)),
        source_width_(pixels.size(1)),
        resized_(pixels.size(0) != height || pixels.size(1) != width),
        height_(height),
        width_(width),
        rows_(resized_ ? height : 0, pixels.size(0), antialias),
        columns_(resized_ ? width : 0, pixels.size(1), antialias) {}

  int64_t height() const { return height_; }
  int64_t width() const { return width_; }
  bool resized() const { return resized_; }
  const uint8_t* source_row(int64_t y) const { return data_ + y * stride_; }
  AxisWeights columns() const { return columns_.view(); }

  // Row y of the output, still as wide as the source, followed by one float for its reader.
  const float* blended_row(int64_t y, std::vector<float>& buffer) const {
    const AxisWeights rows = rows_.view();
    const int64_t count = 3 * source_width_;
    buffer.resize(count + 1);
    buffer[count] = 0.0f;
    blend_rows(
        source_row(rows.first[y]), stride_, rows.weights + y * rows.taps, rows.taps, count,
        buffer.data());
    return buffer.data();
  }

 private:
  const uint8_t* data_;
  int64_t stride_, source_width_;
  bool resized_;
  int64_t height_, width_;
  Axis rows_, columns_;
};

Tensor resize_image(const Tensor& pixels_in, int64_t height, int64_t width) {
  const Tensor pixels = with_adjacent_pixels(pixels_in);
  check_output_size(height, width);
  Tensor resized = torch::stable::new_empty(pixels, {height, width, 3});
  const SourceImage source(pixels, height, width, true);
  uint8_t* output = resized.mutable_data_ptr<uint8_t>();
  std::vector<float> buffer;
  // in the calling thread: callers that resize many images use their own threads
  for (int64_t y = 0; y < height; ++y) {
    uint8_t* row = output + y * width * 3;
    if (source.resized()) {
      stretch_to_levels(source.blended_row(y, buffer), source.columns(), row);
    } else {
      std::memcpy(row, source.source_row(y), width * 3);
    }
  }
  return resized;
}

// Writes row y of an image, resized and normalized.
void write_row(
    const SourceImage& source, int64_t y, const Normalization& normalization,
    std::vector<float>& buffer, float* output) {
  if (source.resized()) {
    stretch_and_normalize(source.blended_row(y, buffer), source.columns(), normalization, output);
  } else {
    normalize_pixels(source.source_row(y), source.width(), normalization, output);
  }
}

template <typename T>
void fill_batch(
    const std::vector<SourceImage>& sources, const Normalization& normalization, int64_t height,
    int64_t width, T* batch) {
  const int64_t rows = static_cast<int64_t>(sources.size()) * height;
  // below about 100,000 values a thread is not worth starting
  const int64_t grain = std::max<int64_t>(1, 100000 / (3 * width));
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> buffer, normalized;
    for (int64_t r = begin; r < end; ++r) {
      const SourceImage& source = sources[r / height];
      const int64_t y = r % height;
      const int64_t filled = y < source.height() ? 3 * source.width() : 0;
      T* row = batch + r * width * 3;
      if (filled > 0) {
        if constexpr (std::is_same_v<T, float>) {
          write_row(source, y, normalization, buffer, row);
        } else {
          normalized.resize(filled);
          write_row(source, y, normalization, buffer, normalized.data());
          for (int64_t i = 0; i < filled; ++i) row[i] = static_cast<T>(normalized[i]);
        }
      }
      std::fill(row + filled, row + width * 3, T(0.0f));
    }
  });
}

Tensor preprocess(
    const std::vector<Tensor>& images, const std::vector<int64_t>& heights,
    const std::vector<int64_t>& widths, int64_t canvas_height, int64_t canvas_width,
    const std::vector<double>& mean, const std::vector<double>& std, bool reverse_channels,
    ScalarType dtype, bool antialias) {
  check_batch(images, heights, widths, canvas_height, canvas_width, mean, std);
  std::vector<Tensor> owners;
  std::vector<SourceImage> sources;
  for (size_t i = 0; i < images.size(); ++i) {
    owners.push_back(with_adjacent_pixels(images[i]));
    sources.emplace_back(owners.back(), heights[i], widths[i], antialias);
  }
  // Antialiased images are rounded to levels: they are bytes after resizing, as before it.
  Normalization normalization{{}, {}, reverse_channels, antialias};
  for (int c = 0; c < 3; ++c) {
    normalization.mean[c] = static_cast<float>(mean[c]);
    normalization.inverse_std[c] = static_cast<float>(1.0 / std[c]);
  }
  Tensor batch = torch::stable::empty(
      {static_cast<int64_t>(images.size()), 3, canvas_height, canvas_width}, dtype, std::nullopt,
      images[0].device(), std::nullopt, MemoryFormat::ChannelsLast);
  void* data = batch.mutable_data_ptr();
  prefer_huge_pages(data, batch.numel() * (dtype == ScalarType::Float ? 4 : 2));
  const auto fill = [&](auto* typed) {
    fill_batch(sources, normalization, canvas_height, canvas_width, typed);
  };
  switch (dtype) {
    case ScalarType::Float: fill(static_cast<float*>(data)); break;
    case ScalarType::Half: fill(static_cast<c10::Half*>(data)); break;
    case ScalarType::BFloat16: fill(static_cast<c10::BFloat16*>(data)); break;
    default: STD_TORCH_CHECK(false, "dtype must be float32, float16 or bfloat16");
  }
  return batch;
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("resize_image", TORCH_BOX(&ops_cuda::cpu::resize_image));
  library.impl("preprocess", TORCH_BOX(&ops_cuda::cpu::preprocess));
}
