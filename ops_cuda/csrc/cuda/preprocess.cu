// Resizing, normalizing and padding of a batch: one thread per pixel of the batch, which computes
// its own weights. Sums are those of the CPU, in the same order, so the bits are the same.
//
// The addresses of the images are passed as a kernel argument, because copying them to the device
// would need a sync.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../preprocess.h"
#include "launch.h"

namespace ops_cuda::gpu {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kImagesPerLaunch = 32;  // 1.3 KiB of the 4 KiB that arguments may take
constexpr int kPixelTileWidth = 32, kPixelTileHeight = 8;

struct SourceImage {
  const uint8_t* data;
  int64_t stride;                       // between rows
  int32_t source_height, source_width;  // of the data
  int32_t height, width;                // after resizing
};

struct ImageTable {
  SourceImage images[kImagesPerLaunch];
  float mean[3], inverse_std[3];
  bool reverse_channels;
  bool antialias;
};

// Computes the levels of pixel (x, y) of the image resized without antialiasing.
__device__ inline void bilinear_pixel(
    const SourceImage& image, int64_t y, int64_t x, float* levels) {
  const BilinearTaps rows = bilinear_taps(y, image.height, image.source_height);
  const BilinearTaps columns = bilinear_taps(x, image.width, image.source_width);
  for (int c = 0; c < 3; ++c) levels[c] = 0.0f;
  for (int64_t j = 0; j < columns.count; ++j) {
    const uint8_t* column = image.data + rows.first * image.stride + 3 * (columns.first + j);
    float blended[3] = {0.0f, 0.0f, 0.0f};
    for (int64_t i = 0; i < rows.count; ++i) {
      const float weight = rows.weight(i);
      for (int c = 0; c < 3; ++c) {
        blended[c] += static_cast<float>(column[i * image.stride + c]) * weight;
      }
    }
    const float weight = columns.weight(j);
    for (int c = 0; c < 3; ++c) levels[c] += blended[c] * weight;
  }
}

// The same with Pillow's antialiasing: along one axis, rounded, then along the other.
__device__ inline void pillow_pixel(const SourceImage& image, int64_t y, int64_t x, float* levels) {
  const PillowTaps rows = pillow_taps(y, image.height, image.source_height);
  const PillowTaps columns = pillow_taps(x, image.width, image.source_width);
  const bool rows_first =
      resizes_rows_first(image.height, image.width, image.source_height, image.source_width);
  const PillowTaps& inner = rows_first ? rows : columns;
  const PillowTaps& outer = rows_first ? columns : rows;
  const int64_t inner_stride = rows_first ? image.stride : 3;
  const int64_t outer_stride = rows_first ? 3 : image.stride;
  const uint8_t* origin = image.data + rows.first * image.stride + 3 * columns.first;
  int32_t sums[3] = {kPillowHalf, kPillowHalf, kPillowHalf};
  for (int64_t j = 0; j < outer.count; ++j) {
    int32_t inner_sums[3] = {kPillowHalf, kPillowHalf, kPillowHalf};
    for (int64_t i = 0; i < inner.count; ++i) {
      const uint8_t* pixel = origin + j * outer_stride + i * inner_stride;
      const int32_t weight = inner.weight(i);
      for (int c = 0; c < 3; ++c) inner_sums[c] += pixel[c] * weight;
    }
    const int32_t weight = outer.weight(j);
    for (int c = 0; c < 3; ++c) sums[c] += (inner_sums[c] >> kPillowBits) * weight;
  }
  for (int c = 0; c < 3; ++c) levels[c] = static_cast<float>(sums[c] >> kPillowBits);
}

// batch: (count, height, width, 3).
template <typename T>
__global__ void __launch_bounds__(kPixelTileWidth* kPixelTileHeight) fill_batch(
    const __grid_constant__ ImageTable table, int64_t count, int64_t height, int64_t width,
    T* __restrict__ batch) {
  const int64_t tiles_across = (width + kPixelTileWidth - 1) / kPixelTileWidth;
  const int64_t tiles_down = (height + kPixelTileHeight - 1) / kPixelTileHeight;
  for (int64_t tile = blockIdx.x; tile < count * tiles_down * tiles_across; tile += gridDim.x) {
    const int64_t x = tile % tiles_across * kPixelTileWidth + threadIdx.x;
    const int64_t y = tile / tiles_across % tiles_down * kPixelTileHeight + threadIdx.y;
    const int64_t b = tile / tiles_across / tiles_down;
    if (x >= width || y >= height) continue;
    const SourceImage& image = table.images[b];
    float values[3] = {0.0f, 0.0f, 0.0f};
    if (x < image.width && y < image.height) {
      float levels[3];
      if (image.height == image.source_height && image.width == image.source_width) {
        const uint8_t* pixel = image.data + y * image.stride + 3 * x;
        for (int c = 0; c < 3; ++c) levels[c] = static_cast<float>(pixel[c]);
      } else if (table.antialias) {
        pillow_pixel(image, y, x, levels);
      } else {
        bilinear_pixel(image, y, x, levels);
      }
      for (int c = 0; c < 3; ++c) {
        const float level = levels[table.reverse_channels ? 2 - c : c];
        values[c] = (level - table.mean[c]) * table.inverse_std[c];
      }
    }
    T* pixel = batch + ((b * height + y) * width + x) * 3;
    for (int c = 0; c < 3; ++c) pixel[c] = static_cast<T>(values[c]);
  }
}

SourceImage source_image(const Tensor& pixels, int64_t height, int64_t width) {
  return {
      pixels.const_data_ptr<uint8_t>(),        pixels.stride(0),
      static_cast<int32_t>(pixels.size(0)),    static_cast<int32_t>(pixels.size(1)),
      static_cast<int32_t>(height),            static_cast<int32_t>(width)};
}

template <typename T>
void launch(
    const ImageTable& table, int64_t count, int64_t height, int64_t width, T* batch,
    cudaStream_t stream) {
  const int64_t tiles = count * ((height + kPixelTileHeight - 1) / kPixelTileHeight) *
      ((width + kPixelTileWidth - 1) / kPixelTileWidth);
  const dim3 block(kPixelTileWidth, kPixelTileHeight);
  fill_batch<T><<<blocks_for(tiles, 1), block, 0, stream>>>(table, count, height, width, batch);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor resize_image(const Tensor& pixels_in, int64_t height, int64_t width) {
  const auto guard = on_device_of(pixels_in);
  const Tensor pixels = with_adjacent_pixels(pixels_in);
  check_output_size(height, width);
  Tensor resized = torch::stable::new_empty(pixels, {height, width, 3});
  ImageTable table{{}, {0.0f, 0.0f, 0.0f}, {1.0f, 1.0f, 1.0f}, false, true};
  table.images[0] = source_image(pixels, height, width);
  launch(table, 1, height, width, resized.mutable_data_ptr<uint8_t>(), current_stream(pixels));
  return resized;
}

Tensor preprocess(
    const std::vector<Tensor>& images, const std::vector<int64_t>& heights,
    const std::vector<int64_t>& widths, int64_t canvas_height, int64_t canvas_width,
    const std::vector<double>& mean, const std::vector<double>& std, bool reverse_channels,
    ScalarType dtype, bool antialias) {
  check_batch(images, heights, widths, canvas_height, canvas_width, mean, std);
  const auto guard = on_device_of(images[0]);
  std::vector<Tensor> owners;
  for (const Tensor& image : images) owners.push_back(with_adjacent_pixels(image));
  ImageTable table{{}, {}, {}, reverse_channels, antialias};
  for (int c = 0; c < 3; ++c) {
    table.mean[c] = static_cast<float>(mean[c]);
    table.inverse_std[c] = static_cast<float>(1.0 / std[c]);
  }
  const int64_t total = static_cast<int64_t>(images.size());
  Tensor batch = torch::stable::empty(
      {total, 3, canvas_height, canvas_width}, dtype, std::nullopt, images[0].device(),
      std::nullopt, MemoryFormat::ChannelsLast);
  const cudaStream_t stream = current_stream(batch);
  const auto fill = [&](auto* data) {
    for (int64_t first = 0; first < total; first += kImagesPerLaunch) {
      const int64_t count = std::min<int64_t>(kImagesPerLaunch, total - first);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t image = first + i;
        table.images[i] = source_image(owners[image], heights[image], widths[image]);
      }
      launch(
          table, count, canvas_height, canvas_width,
          data + first * canvas_height * canvas_width * 3, stream);
    }
  };
  void* data = batch.mutable_data_ptr();
  switch (dtype) {
    case ScalarType::Float: fill(static_cast<float*>(data)); break;
    case ScalarType::Half: fill(static_cast<c10::Half*>(data)); break;
    case ScalarType::BFloat16: fill(static_cast<c10::BFloat16*>(data)); break;
    default: STD_TORCH_CHECK(false, "dtype must be float32, float16 or bfloat16");
  }
  return batch;
}

}  // namespace ops_cuda::gpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CUDA, library) {
  library.impl("resize_image", TORCH_BOX(&ops_cuda::gpu::resize_image));
  library.impl("preprocess", TORCH_BOX(&ops_cuda::gpu::preprocess));
}
