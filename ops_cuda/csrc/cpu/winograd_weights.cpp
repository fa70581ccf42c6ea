// Transformation of filters to Winograd's form, once per model: in double precision, rounded once.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>

#include "winograd.h"

namespace ops_cuda::cpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// G g for one row or column of a filter: three values `stride` apart become six.
void transform_filter_line(const double* g, int64_t stride, double* out, int64_t out_stride) {
  const double a = g[0], b = g[stride], c = g[2 * stride];
  out[0] = a / 4;
  out[1 * out_stride] = -(a + b + c) / 6;
  out[2 * out_stride] = -(a - b + c) / 6;
  out[3 * out_stride] = a / 24 + b / 12 + c / 6;
  out[4 * out_stride] = a / 24 - b / 12 + c / 6;
  out[5 * out_stride] = c;
}

// Computes the 36 values of one filter (3, 3).
void transform_filter(const float* filter, double* out) {
  double g[9], half[kPatchSide * 3];
  std::copy_n(filter, 9, g);
  for (int64_t x = 0; x < 3; ++x) transform_filter_line(g + x, 3, half + x, 3);
  for (int64_t y = 0; y < kPatchSide; ++y) {
    transform_filter_line(half + 3 * y, 1, out + kPatchSide * y, 1);
  }
}

Tensor pack_conv3x3(const Tensor& weight_in) {
  STD_TORCH_CHECK(
      weight_in.dim() == 4 && weight_in.size(2) == 3 && weight_in.size(3) == 3,
      "weight must be (O, C, 3, 3)");
  STD_TORCH_CHECK(weight_in.scalar_type() == ScalarType::Float, "weight must be float32");
  const Tensor weight = torch::stable::contiguous(weight_in);
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  const int64_t panels = (outputs + kPanel - 1) / kPanel;
  Tensor packed = torch::stable::new_zeros(weight, {kPatchPixels, panels, inputs, kPanel});
  const float* filters = weight.const_data_ptr<float>();
  float* target = packed.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, outputs, kPanel, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      float* column = target + o / kPanel * inputs * kPanel + o % kPanel;
      for (int64_t i = 0; i < inputs; ++i) {
        double transformed[kPatchPixels];
        transform_filter(filters + (o * inputs + i) * 9, transformed);
        for (int64_t m = 0; m < kPatchPixels; ++m) {
          column[(m * panels * inputs + i) * kPanel] = static_cast<float>(transformed[m]);
        }
      }
    }
  });
  return packed;
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("pack_conv3x3", TORCH_BOX(&ops_cuda::cpu::pack_conv3x3));
}
