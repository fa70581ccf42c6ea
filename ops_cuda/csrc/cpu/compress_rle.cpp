// Compression of run lengths to COCO's text: each run after the third is stored as its difference
// to the one before last, in groups of five bits, least significant first, with bit 6 set if more
// groups follow, plus 48.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <tuple>

namespace ops_cuda::cpu {

using torch::stable::Tensor;

int64_t stored_number(const int64_t* runs, int64_t i) {
  if (i <= 2) return runs[i];
  // unsigned: invalid run lengths may wrap around
  return static_cast<int64_t>(
      static_cast<uint64_t>(runs[i]) - static_cast<uint64_t>(runs[i - 2]));
}

int64_t characters(int64_t number) {
  const uint64_t magnitude = static_cast<uint64_t>(number ^ (number >> 63));
  // the bits that differ from the sign, and one for the sign
  const int bits = 65 - __builtin_clzll(magnitude | 1) - (magnitude == 0);
  return (bits + 4) / 5;
}

int64_t text_length(const int64_t* runs, int64_t count) {
  int64_t length = 0;
  for (int64_t i = 0; i < count; ++i) length += characters(stored_number(runs, i));
  return length;
}

void write_text(const int64_t* runs, int64_t count, uint8_t* text) {
  for (int64_t i = 0; i < count; ++i) {
    int64_t number = stored_number(runs, i);
    // one group holds -16 to 15
    for (; number < -16 || number > 15; number >>= 5) {
      *text++ = static_cast<uint8_t>((number & 31) + 32 + 48);
    }
    *text++ = static_cast<uint8_t>((number & 31) + 48);
  }
}

std::tuple<Tensor, Tensor> compress_rle(const Tensor& counts_in, const Tensor& offsets_in) {
  using torch::headeronly::ScalarType;
  const Tensor counts = torch::stable::contiguous(counts_in);
  const Tensor offsets = torch::stable::contiguous(offsets_in);
  STD_TORCH_CHECK(
      counts.dim() == 1 && offsets.dim() == 1, "counts and offsets must be one-dimensional");
  STD_TORCH_CHECK(offsets.numel() > 0, "offsets must be (R + 1,)");
  const int64_t masks = offsets.numel() - 1;
  const int64_t* runs = counts.const_data_ptr<int64_t>();
  const int64_t* starts = offsets.const_data_ptr<int64_t>();
  STD_TORCH_CHECK(
      starts[0] == 0 && starts[masks] == counts.numel() &&
          std::is_sorted(starts, starts + masks + 1),
      "offsets must ascend from 0 to the number of counts");

  Tensor text_offsets = torch::stable::new_empty(counts, {masks + 1}, ScalarType::Long);
  int64_t* text_starts = text_offsets.mutable_data_ptr<int64_t>();
  text_starts[0] = 0;
  for (int64_t r = 0; r < masks; ++r) {
    const int64_t length = text_length(runs + starts[r], starts[r + 1] - starts[r]);
    text_starts[r + 1] = text_starts[r] + length;
  }
  Tensor text = torch::stable::new_empty(counts, {text_starts[masks]}, ScalarType::Byte);
  uint8_t* characters = text.mutable_data_ptr<uint8_t>();
  for (int64_t r = 0; r < masks; ++r) {
    write_text(runs + starts[r], starts[r + 1] - starts[r], characters + text_starts[r]);
  }
  return {text, text_offsets};
}

}  // namespace ops_cuda::cpu

STABLE_TORCH_LIBRARY_IMPL(ops_cuda, CPU, library) {
  library.impl("compress_rle", TORCH_BOX(&ops_cuda::cpu::compress_rle));
}
