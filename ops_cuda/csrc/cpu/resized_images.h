// Images that are resized row by row, as the rows are needed.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "axis_weights.h"
#include "image_rows.h"

namespace ops_cuda::cpu {

// An image of (h, w, 3) uint8 and the size it is resized to.
struct ImageView {
  ImageView(const torch::stable::Tensor& pixels, int64_t height, int64_t width)
      : data(pixels.const_data_ptr<uint8_t>()),
        stride(pixels.stride(0)),
        source_height(pixels.size(0)),
        source_width(pixels.size(1)),
        height(height),
        width(width) {}

  bool is_resized() const { return height != source_height || width != source_width; }
  const uint8_t* source_row(int64_t y) const { return data + y * stride; }

  const uint8_t* data;
  int64_t stride, source_height, source_width, height, width;
};

// Resizes bilinearly without antialiasing and without rounding, as torch and OpenCV do.
class BilinearImage {
 public:
  // Buffers of one thread.
  struct Scratch {
    std::vector<float> row;
  };

  BilinearImage(const torch::stable::Tensor& pixels, int64_t height, int64_t width);

  const ImageView& view() const { return view_; }

  // Writes row y, resized and normalized.
  void write_row(
      int64_t y, const Normalization& normalization, Scratch& scratch, float* output) const;

 private:
  ImageView view_;
  Axis<float> rows_, columns_;
};

// Resizes with antialiasing to the same bits as Pillow's Image.resize with BILINEAR.
class PillowImage {
 public:
  // Buffers of one thread. Stretched rows are kept while the next rows need them.
  struct Scratch {
    const PillowImage* owner = nullptr;
    std::vector<uint8_t> row, stretched;
    std::vector<int64_t> stretched_rows;  // source row in each slot of `stretched`
    std::vector<int32_t> levels, sums;
    std::vector<const uint8_t*> taps;
  };

  PillowImage(const torch::stable::Tensor& pixels, int64_t height, int64_t width);

  const ImageView& view() const { return view_; }

  // Returns row y of the result, valid until the next call with this scratch.
  const uint8_t* row(int64_t y, Scratch& scratch) const;

  // Writes row y, resized and normalized.
  void write_row(
      int64_t y, const Normalization& normalization, Scratch& scratch, float* output) const;

 private:
  void prepare(Scratch& scratch) const;
  const uint8_t* stretched_row(int64_t y, Scratch& scratch) const;

  ImageView view_;
  bool rows_first_;
  Axis<int32_t> rows_, columns_;
};

}  // namespace ops_cuda::cpu
