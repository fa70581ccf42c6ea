// Pictures to a padded, normalised batch in one pass: each row of the batch is blended from the
// source rows it needs into a buffer, then stretched, rounded where wanted, and normalised into place.

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

#include "../picture_checks.h"
#include "../resize_geometry.h"
#include "huge_pages.h"
#include "picture_rows.h"

namespace ops_cuda::cpu {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The weights of a whole axis, as many taps for each position: short ones get zeros.
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

// A source picture and how it is resized.
class Picture {
 public:
  Picture(const Tensor& pixels, int64_t height, int64_t width, bool antialias)
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

  // Row y of the output height, still as wide as the source; one float to spare for its reader.
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
  const Tensor pixels = rows_of_pixels(pixels_in);
  STD_TORCH_CHECK(height > 0 && width > 0, "height and width must be positive");
  Tensor resized = torch::stable::new_empty(pixels, {height, width, 3});
  const Picture picture(pixels, height, width, true);
  uint8_t* output = resized.mutable_data_ptr<uint8_t>();
  std::vector<float> buffer;
  // on the calling thread: whoever resizes many pictures does so in threads of its own
  for (int64_t y = 0; y < height; ++y) {
    uint8_t* row = output + y * width * 3;
    if (picture.resized()) {
      stretch_to_levels(picture.blended_row(y, buffer), picture.columns(), row);
    } else {
      std::memcpy(row, picture.source_row(y), width * 3);
    }
  }
  return resized;
}

// Row y of the picture, normalised, to the right place.
void write_row(
    const Picture& picture, int64_t y, const Normalisation& rule, std::vector<float>& buffer,
    float* output) {
  if (picture.resized()) {
    stretch_and_normalise(picture.blended_row(y, buffer), picture.columns(), rule, output);
  } else {
    normalise_pixels(picture.source_row(y), picture.width(), rule, output);
  }
}

template <typename T>
void fill_batch(
    const std::vector<Picture>& pictures, const Normalisation& rule, int64_t height, int64_t width,
    T* batch) {
  const int64_t rows = static_cast<int64_t>(pictures.size()) * height;
  // a thread is worth its start from about 100,000 values
  const int64_t grain = std::max<int64_t>(1, 100000 / (3 * width));
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> buffer, normalised;
    for (int64_t r = begin; r < end; ++r) {
      const Picture& picture = pictures[r / height];
      const int64_t y = r % height;
      const int64_t filled = y < picture.height() ? 3 * picture.width() : 0;
      T* row = batch + r * width * 3;
      if (filled > 0) {
        if constexpr (std::is_same_v<T, float>) {
          write_row(picture, y, rule, buffer, row);
        } else {
          normalised.resize(filled);
          write_row(picture, y, rule, buffer, normalised.data());
          for (int64_t i = 0; i < filled; ++i) row[i] = static_cast<T>(normalised[i]);
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
  std::vector<Picture> pictures;
  for (size_t i = 0; i < images.size(); ++i) {
    owners.push_back(rows_of_pixels(images[i]));
    pictures.emplace_back(owners.back(), heights[i], widths[i], antialias);
  }
  // Who antialiases works on levels: a picture there is bytes after it as before.
  Normalisation rule{{}, {}, reverse_channels, antialias};
  for (int c = 0; c < 3; ++c) {
    rule.mean[c] = static_cast<float>(mean[c]);
    rule.inverse_std[c] = static_cast<float>(1.0 / std[c]);
  }
  Tensor batch = torch::stable::empty(
      {static_cast<int64_t>(images.size()), 3, canvas_height, canvas_width}, dtype, std::nullopt,
      images[0].device(), std::nullopt, MemoryFormat::ChannelsLast);
  void* data = batch.mutable_data_ptr();
  prefer_huge_pages(data, batch.numel() * (dtype == ScalarType::Float ? 4 : 2));
  const auto fill = [&](auto* typed) {
    fill_batch(pictures, rule, canvas_height, canvas_width, typed);
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
