// 3x3 convolution of stride 1 with bias and ReLU for inference, on channels_last maps.
//
// Blocks of tiles are distributed over the threads. A block is transformed, multiplied matrix by
// matrix, each passing through the caches once, and transformed back. No sum depends on how tiles
// are grouped, so results are the same bits for any number of threads.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "huge_pages.h"
#include "winograd.h"

namespace ops_cuda::cpu {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kLine = 16;  // floats of a cache line
// Each block reads all weights: fewer tiles would wait for them, more would be evicted from the L2
// cache before they are used (measured; 28 to 112 differ little).
constexpr int64_t kBlockTiles = 56;

int64_t divide_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }
int64_t round_up(int64_t value, int64_t unit) { return divide_up(value, unit) * unit; }

// A batch of maps, NHWC, and the tiles that cover it.
struct Convolution {
  const float* input;
  const float* weights;  // (36, panels, in_channels, kPanel)
  float* output;
  int64_t images, height, width, in_channels, out_channels;
  bool relu;
  std::vector<float> bias;   // padded to whole panels
  std::vector<float> zeros;  // read as the pixels outside the image

  int64_t tiles_down() const { return divide_up(height, kTileSide); }
  int64_t tiles_across() const { return divide_up(width, kTileSide); }
  int64_t tiles() const { return images * tiles_down() * tiles_across(); }
};

// Floats aligned to a cache line; not set to zero, which would cost a pass.
class Buffer {
 public:
  explicit Buffer(int64_t floats) : owned_(new float[floats + kLine]) {
    const auto address = reinterpret_cast<uintptr_t>(owned_.get());
    data_ = owned_.get() + (round_up(address, 64) - address) / sizeof(float);
  }
  float* data() const { return data_; }

 private:
  std::unique_ptr<float[]> owned_;
  float* data_;
};

// An odd number of cache lines, so that the 36 matrices do not compete for the same cache sets.
int64_t matrix_stride(int64_t rows, int64_t columns) {
  return (divide_up(rows * columns, kLine) | 1) * kLine;
}

// Transforms and multiplies blocks of tiles, reusing its buffers.
class TileBlock {
 public:
  TileBlock(const Convolution& convolution, const WinogradKernels& kernels, int64_t capacity)
      : conv_(convolution),
        kernels_(kernels),
        input_row_(round_up(conv_.in_channels, kLine)),
        product_row_(round_up(conv_.out_channels, kPanel)),
        input_stride_(matrix_stride(capacity, input_row_)),
        product_stride_(matrix_stride(capacity, product_row_)),
        inputs_(kPatchPixels * input_stride_),
        products_(kPatchPixels * product_stride_),
        outside_(conv_.out_channels) {}

  // Convolves the tiles [begin, end), at most `capacity` of them.
  void convolve(int64_t begin, int64_t end) {
    const int64_t count = end - begin;
    for (int64_t i = 0; i < count; ++i) read_tile(begin + i, inputs_.data() + i * input_row_);
    for (int64_t m = 0; m < kPatchPixels; ++m) multiply(m, count);
    for (int64_t i = 0; i < count; ++i) write_tile(begin + i, products_.data() + i * product_row_);
  }

 private:
  // Computes matrix m of the products of `count` tiles.
  void multiply(int64_t m, int64_t count) {
    const int64_t groups = divide_up(count, kernels_.max_rows), depth = conv_.in_channels;
    const float* inputs = inputs_.data() + m * input_stride_;
    float* products = products_.data() + m * product_stride_;
    for (int64_t channel = 0; channel < conv_.out_channels; channel += kPanel) {
      const float* weights = conv_.weights + (m * product_row_ + channel) * depth;
      for (int64_t group = 0; group < groups; ++group) {
        // groups of nearly equal size: a small remainder would leave registers empty
        const int64_t first = count * group / groups, last = count * (group + 1) / groups;
        kernels_.multiply(
            inputs + first * input_row_, input_row_, weights, depth, last - first,
            products + first * product_row_ + channel, product_row_);
      }
    }
  }

  struct Corner {
    int64_t image, y, x;
  };

  Corner corner(int64_t tile) const {
    const int64_t across = conv_.tiles_across(), per_image = across * conv_.tiles_down();
    const int64_t within = tile % per_image;
    return {tile / per_image, within / across * kTileSide, within % across * kTileSide};
  }

  void read_tile(int64_t tile, float* matrices) {
    const Corner origin = corner(tile);
    const float* image =
        conv_.input + origin.image * conv_.height * conv_.width * conv_.in_channels;
    const float* patch[kPatchPixels];
    for (int64_t i = 0; i < kPatchPixels; ++i) {
      const int64_t y = origin.y - 1 + i / kPatchSide, x = origin.x - 1 + i % kPatchSide;
      const bool inside = y >= 0 && y < conv_.height && x >= 0 && x < conv_.width;
      patch[i] = inside ? image + (y * conv_.width + x) * conv_.in_channels : conv_.zeros.data();
    }
    kernels_.transform_input(patch, conv_.in_channels, matrices, input_stride_);
  }

  void write_tile(int64_t tile, const float* matrices) {
    const Corner origin = corner(tile);
    float* image = conv_.output + origin.image * conv_.height * conv_.width * conv_.out_channels;
    float* pixels[kTilePixels];
    for (int64_t i = 0; i < kTilePixels; ++i) {
      const int64_t y = origin.y + i / kTileSide, x = origin.x + i % kTileSide;
      const bool inside = y < conv_.height && x < conv_.width;
      pixels[i] = inside ? image + (y * conv_.width + x) * conv_.out_channels : outside_.data();
    }
    kernels_.transform_output(
        matrices, product_stride_, conv_.bias.data(), conv_.relu, conv_.out_channels, pixels);
  }

  const Convolution& conv_;
  const WinogradKernels& kernels_;
  int64_t input_row_, product_row_, input_stride_, product_stride_;
  Buffer inputs_, products_;
  std::vector<float> outside_;  // written as the pixels of a tile beyond the image
};

// Tiles per block, so that the threads get equal numbers of blocks.
int64_t block_size(int64_t tiles, int64_t max_rows) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t blocks = round_up(divide_up(tiles, kBlockTiles), threads);
  return std::max(divide_up(tiles, blocks), std::min(max_rows, tiles));
}

Tensor conv3x3_relu(
    const Tensor& x_in, const Tensor& packed_in, const std::optional<Tensor>& bias,
    int64_t out_channels, bool relu, int64_t vector_bytes) {
  STD_TORCH_CHECK(x_in.dim() == 4 && packed_in.dim() == 4, "x must be (B, C, H, W)");
  STD_TORCH_CHECK(
      x_in.scalar_type() == ScalarType::Float && packed_in.scalar_type() == ScalarType::Float,
      "x and packed must be float32");
  const int64_t channels = x_in.size(1);
  STD_TORCH_CHECK(
      out_channels >= 0 && packed_in.size(0) == kPatchPixels &&
          packed_in.size(1) == divide_up(out_channels, kPanel) && packed_in.size(2) == channels &&
          packed_in.size(3) == kPanel,
      "packed must be from pack_conv3x3, of a weight (", out_channels, ", ", channels, ", 3, 3)");
  const Tensor x = torch::stable::contiguous(x_in, MemoryFormat::ChannelsLast);
  const Tensor packed = torch::stable::contiguous(packed_in);
  Tensor output = torch::stable::empty(
      {x.size(0), out_channels, x.size(2), x.size(3)}, ScalarType::Float, std::nullopt, x.device(),
      std::nullopt, MemoryFormat::ChannelsLast);
  if (output.numel() == 0) return output;
  prefer_huge_pages(output.mutable_data_ptr<float>(), output.numel() * sizeof(float));

  Convolution conv{
      x.const_data_ptr<float>(), packed.const_data_ptr<float>(), output.mutable_data_ptr<float>(),
      x.size(0), x.size(2), x.size(3), channels, out_channels, relu,
      std::vector<float>(round_up(out_channels, kPanel), 0.0f),
      std::vector<float>(channels, 0.0f)};
  if (bias.has_value()) {
    STD_TORCH_CHECK(
        bias->dim() == 1 && bias->size(0) == out_channels &&
            bias->scalar_type() == ScalarType::Float,
        "bias must be (out_channels,) float32");
    const Tensor values = torch::stable::contiguous(*bias);
    std::copy_n(values.const_data_ptr<float>(), out_channels, conv.bias.data());
  }
  const WinogradKernels& kernels = winograd_kernels(vector_bytes);
  const int64_t tiles = conv.tiles(), size = block_size(tiles, kernels.max_rows);
  torch::stable::parallel_for(0, divide_up(tiles, size), 1, [&](int64_t begin, int64_t end) {
    TileBlock block(conv, kernels, size);
    for (int64_t i = begin; i < end; ++i) {
      block.convolve(i * size, std::min((i + 1) * size, tiles));
    }
  });
  return output;
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("conv3x3_relu", TORCH_BOX(&ops_cuda::cpu::conv3x3_relu));
}
