// Sampling of a deformable convolution and its gradient, on channels_last maps.
//
// A tap reads a weighted sum of four pixels, and a pixel is a row of channels: the sampling point
// is located once, and the loop over channels is vectorized. For the gradient of the map each
// thread owns images and channels, so that no two threads add to the same number; all other work is
// distributed by output cell.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "../deform_columns.h"
#include "huge_pages.h"
#include "pixel_sums.h"

namespace ops_cuda::cpu {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Checked arguments, contiguous in the layout that the kernels read.
template <typename T>
struct DeformInput {
  DeformShape shape;
  Tensor map_owner, offset_owner, modulation_owner;
  const T* map;
  const T* offsets;
  const T* modulation;  // or null

  DeformInput(
      const Tensor& x, const Tensor& offsets_in, const std::optional<Tensor>& modulation_in,
      const std::vector<int64_t>& geometry)
      : shape(check_deform(x, offsets_in, modulation_in, geometry)),
        map_owner(torch::stable::contiguous(x, MemoryFormat::ChannelsLast)),
        offset_owner(torch::stable::contiguous(offsets_in)),
        modulation_owner(torch::stable::contiguous(modulation_in.value_or(offsets_in))),
        map(map_owner.const_data_ptr<T>()),
        offsets(offset_owner.const_data_ptr<T>()),
        modulation(modulation_in ? modulation_owner.const_data_ptr<T>() : nullptr) {
    STD_TORCH_CHECK(
        offset_owner.scalar_type() == x.scalar_type() &&
            modulation_owner.scalar_type() == x.scalar_type(),
        "x, offsets and modulation differ in type");
  }

  T modulation_at(int64_t image, int64_t group, int64_t tap, int64_t cell) const {
    return modulation ? modulation[modulation_index(shape, image, group, tap, cell)] : T(1);
  }
};

// The corners of a tap that are on the map: offsets of their channels, and their weights.
template <typename T>
struct Corners {
  int64_t offsets[4];
  T weights[4];
  int64_t count = 0;

  Corners(const TapPoint<T>& point, int64_t first, int64_t channels, T factor) {
    for (int corner = 0; corner < 4; ++corner) {
      if (!point.inside[corner]) continue;
      offsets[count] = first + point.pixel[corner] * channels;
      weights[count++] = point.weight(corner) * factor;
    }
  }
};

constexpr int64_t kCellsPerTask = 16;

template <typename T>
Tensor forward_typed(const DeformInput<T>& input) {
  const DeformShape& shape = input.shape;
  Tensor columns = torch::stable::empty(
      {shape.images, shape.out_height, shape.out_width, shape.taps(), shape.channels},
      input.map_owner.scalar_type(), std::nullopt, input.map_owner.device());
  T* output = columns.mutable_data_ptr<T>();
  prefer_huge_pages(output, columns.numel() * sizeof(T));
  const int64_t width = shape.group_channels(), image_size = shape.height * shape.width;
  torch::stable::parallel_for(
      0, shape.images * shape.cells(), kCellsPerTask, [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
          const int64_t image = item / shape.cells(), cell = item % shape.cells();
          for (int64_t tap = 0; tap < shape.taps(); ++tap) {
            for (int64_t group = 0; group < shape.groups; ++group) {
              const auto point = locate_tap(shape, input.offsets, image, group, tap, cell);
              const Corners<T> corners(
                  point, image * image_size * shape.channels + group * width, shape.channels,
                  input.modulation_at(image, group, tap, cell));
              sum_pixels(
                  input.map, corners.offsets, corners.weights, corners.count, width,
                  output + (item * shape.taps() + tap) * shape.channels + group * width);
            }
          }
        }
      });
  return columns;
}

// Adds to the gradient of the map.
template <typename T>
void add_map_gradient(const DeformInput<T>& input, const T* gradient, T* map) {
  const DeformShape& shape = input.shape;
  const int64_t width = shape.group_channels(), image_size = shape.height * shape.width;
  constexpr int64_t line = 64 / sizeof(T);  // channels in one cache line have one owner
  const int64_t parts = (width + line - 1) / line, per_image = shape.groups * parts;
  torch::stable::parallel_for(0, shape.images * per_image, 1, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      // adjacent parts of a group are one range of channels
      const int64_t image = begin / per_image, group = begin % per_image / parts;
      const int64_t part = begin % parts, count = std::min(parts - part, end - begin);
      const int64_t first = group * width + part * line;
      const int64_t channels = std::min(count * line, width - part * line);
      for (int64_t cell = 0; cell < shape.cells(); ++cell) {
        for (int64_t tap = 0; tap < shape.taps(); ++tap) {
          const auto point = locate_tap(shape, input.offsets, image, group, tap, cell);
          const Corners<T> corners(
              point, image * image_size * shape.channels + first, shape.channels,
              input.modulation_at(image, group, tap, cell));
          const int64_t row = (image * shape.cells() + cell) * shape.taps() + tap;
          add_to_pixels(
              gradient + row * shape.channels + first, corners.offsets, corners.weights,
              corners.count, channels, map);
        }
      }
      begin += count;
    }
  });
}

// Writes the gradients of offsets and modulation; the latter may be null.
template <typename T>
void write_offset_gradients(
    const DeformInput<T>& input, const T* gradient, T* offsets, T* modulation) {
  const DeformShape& shape = input.shape;
  const int64_t width = shape.group_channels(), image_size = shape.height * shape.width;
  torch::stable::parallel_for(
      0, shape.images * shape.cells(), kCellsPerTask, [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
          const int64_t image = item / shape.cells(), cell = item % shape.cells();
          for (int64_t tap = 0; tap < shape.taps(); ++tap) {
            for (int64_t group = 0; group < shape.groups; ++group) {
              const auto point = locate_tap(shape, input.offsets, image, group, tap, cell);
              const T* incoming =
                  gradient + (item * shape.taps() + tap) * shape.channels + group * width;
              T products[4] = {};
              for (int corner = 0; corner < 4; ++corner) {
                if (!point.inside[corner]) continue;
                const int64_t pixel =
                    (image * image_size + point.pixel[corner]) * shape.channels + group * width;
                dot_pixels(incoming, input.map, &pixel, 1, width, products + corner);
              }
              const TapGradient<T> derivative(point, products);
              const T factor = input.modulation_at(image, group, tap, cell);
              const int64_t first = modulation_index(shape, image, group, tap, 0);
              offsets[2 * first + cell] = derivative.down * factor;
              offsets[2 * first + shape.cells() + cell] = derivative.right * factor;
              if (modulation) modulation[first + cell] = derivative.value;
            }
          }
        }
      });
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor> backward_typed(
    const Tensor& gradient_in, const DeformInput<T>& input, bool modulated) {
  const Tensor gradient = torch::stable::contiguous(gradient_in);
  const auto like = [&](const Tensor& tensor, MemoryFormat layout) {
    return torch::stable::empty(
        tensor.sizes(), tensor.scalar_type(), std::nullopt, tensor.device(), std::nullopt, layout);
  };
  Tensor map = like(input.map_owner, MemoryFormat::ChannelsLast);
  prefer_huge_pages(map.mutable_data_ptr<T>(), map.numel() * sizeof(T));
  torch::stable::zero_(map);
  Tensor offsets = like(input.offset_owner, MemoryFormat::Contiguous);
  Tensor modulation = modulated
      ? like(input.modulation_owner, MemoryFormat::Contiguous)
      : torch::stable::empty({0}, map.scalar_type(), std::nullopt, map.device());
  const T* incoming = gradient.template const_data_ptr<T>();
  add_map_gradient(input, incoming, map.mutable_data_ptr<T>());
  write_offset_gradients(
      input, incoming, offsets.mutable_data_ptr<T>(),
      modulated ? modulation.mutable_data_ptr<T>() : nullptr);
  return {map, offsets, modulation};
}

Tensor deform_columns(
    const Tensor& x, const Tensor& offsets, const std::optional<Tensor>& modulation,
    const std::vector<int64_t>& geometry) {
  if (x.scalar_type() == ScalarType::Double) {
    return forward_typed(DeformInput<double>(x, offsets, modulation, geometry));
  }
  return forward_typed(DeformInput<float>(x, offsets, modulation, geometry));
}

std::tuple<Tensor, Tensor, Tensor> deform_columns_backward(
    const Tensor& gradient, const Tensor& x, const Tensor& offsets,
    const std::optional<Tensor>& modulation, const std::vector<int64_t>& geometry) {
  const DeformShape shape = check_deform(x, offsets, modulation, geometry);
  check_deform_gradient(gradient, x, shape);
  const bool modulated = modulation.has_value();
  if (x.scalar_type() == ScalarType::Double) {
    return backward_typed(
        gradient, DeformInput<double>(x, offsets, modulation, geometry), modulated);
  }
  return backward_typed(gradient, DeformInput<float>(x, offsets, modulation, geometry), modulated);
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("deform_columns", TORCH_BOX(&ops_cuda::cpu::deform_columns));
  library.impl("deform_columns_backward", TORCH_BOX(&ops_cuda::cpu::deform_columns_backward));
}
