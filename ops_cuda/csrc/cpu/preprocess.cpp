// Resizing, normalizing and padding of a batch in one pass: each row of the batch is resized from its
// source rows and normalized into the batch.

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
#include "resized_images.h"

namespace ops_cuda::cpu {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Tensor resize_image(const Tensor& pixels_in, int64_t height, int64_t width) {
  const Tensor pixels = with_adjacent_pixels(pixels_in);
  check_output_size(height, width);
  Tensor resized = torch::stable::new_empty(pixels, {height, width, 3});
  const PillowImage image(pixels, height, width);
  uint8_t* output = resized.mutable_data_ptr<uint8_t>();
  PillowImage::Scratch scratch;
  // in the calling thread: callers that resize many images use their own threads
  for (int64_t y = 0; y < height; ++y) {
    std::memcpy(output + y * width * 3, image.row(y, scratch), width * 3);
  }
  return resized;
}

template <typename T, typename Image>
void fill_batch(
    const std::vector<Image>& images, const Normalization& normalization, int64_t height,
    int64_t width, T* batch) {
  const int64_t rows = static_cast<int64_t>(images.size()) * height;
  // below about 100,000 values a thread is not worth starting
  const int64_t grain = std::max<int64_t>(1, 100000 / (3 * width));
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    typename Image::Scratch scratch;
    std::vector<float> normalized;
    for (int64_t r = begin; r < end; ++r) {
      const Image& image = images[r / height];
      const int64_t y = r % height;
      const int64_t filled = y < image.view().height ? 3 * image.view().width : 0;
      T* row = batch + r * width * 3;
      if (filled > 0) {
        if constexpr (std::is_same_v<T, float>) {
          image.write_row(y, normalization, scratch, row);
        } else {
          normalized.resize(filled);
          image.write_row(y, normalization, scratch, normalized.data());
          for (int64_t i = 0; i < filled; ++i) row[i] = static_cast<T>(normalized[i]);
        }
      }
      std::fill(row + filled, row + width * 3, T(0.0f));
    }
  });
}

template <typename Image>
void fill(
    const std::vector<Tensor>& pixels, const std::vector<int64_t>& heights,
    const std::vector<int64_t>& widths, const Normalization& normalization, Tensor& batch) {
  std::vector<Image> images;
  for (size_t i = 0; i < pixels.size(); ++i) {
    images.emplace_back(pixels[i], heights[i], widths[i]);
  }
  const int64_t height = batch.size(2), width = batch.size(3);
  const ScalarType dtype = batch.scalar_type();
  void* data = batch.mutable_data_ptr();
  prefer_huge_pages(data, batch.numel() * (dtype == ScalarType::Float ? 4 : 2));
  switch (dtype) {
    case ScalarType::Float:
      fill_batch(images, normalization, height, width, static_cast<float*>(data));
      break;
    case ScalarType::Half:
      fill_batch(images, normalization, height, width, static_cast<c10::Half*>(data));
      break;
    case ScalarType::BFloat16:
      fill_batch(images, normalization, height, width, static_cast<c10::BFloat16*>(data));
      break;
    default: STD_TORCH_CHECK(false, "dtype must be float32, float16 or bfloat16");
  }
}

Tensor preprocess(
    const std::vector<Tensor>& images, const std::vector<int64_t>& heights,
    const std::vector<int64_t>& widths, int64_t canvas_height, int64_t canvas_width,
    const std::vector<double>& mean, const std::vector<double>& std, bool reverse_channels,
    ScalarType dtype, bool antialias) {
  check_batch(images, heights, widths, canvas_height, canvas_width, mean, std);
  std::vector<Tensor> pixels;
  for (const Tensor& image : images) pixels.push_back(with_adjacent_pixels(image));
  Normalization normalization{{}, {}, reverse_channels};
  for (int c = 0; c < 3; ++c) {
    normalization.mean[c] = static_cast<float>(mean[c]);
    normalization.inverse_std[c] = static_cast<float>(1.0 / std[c]);
  }
  Tensor batch = torch::stable::empty(
      {static_cast<int64_t>(images.size()), 3, canvas_height, canvas_width}, dtype, std::nullopt,
      images[0].device(), std::nullopt, MemoryFormat::ChannelsLast);
  if (antialias) {
    fill<PillowImage>(pixels, heights, widths, normalization, batch);
  } else {
    fill<BilinearImage>(pixels, heights, widths, normalization, batch);
  }
  return batch;
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("resize_image", TORCH_BOX(&ops_cuda::cpu::resize_image));
  library.impl("preprocess", TORCH_BOX(&ops_cuda::cpu::preprocess));
}
