// Winograd's inner loops for each instruction set, and the selection of one for this machine.
//
// Not MULTIVERSION, because the vector width and the tiles per call differ, not only the encoding.
// Unlike elsewhere in the library, products are fused with their sums: half the instructions. A
// machine without fused multiply-add therefore differs in the last bits.

#if defined(__clang__)
#pragma clang fp contract(fast)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=fast")
#endif

#include "winograd_gemm.h"
#include "winograd_transforms.h"

#define WINOGRAD_KERNELS(NAME, TARGET, BYTES, ROWS)                                               \
  namespace NAME {                                                                                \
  TARGET void input(                                                                              \
      const float* const* patch, int64_t channels, float* matrices, int64_t matrix_stride) {      \
    transform_input<BYTES>(patch, channels, matrices, matrix_stride);                             \
  }                                                                                               \
  TARGET void product(                                                                            \
      const float* tiles, int64_t tile_stride, const float* weights, int64_t depth, int64_t rows, \
      float* products, int64_t product_stride) {                                                  \
    multiply<BYTES, ROWS>(                                                                        \
        tiles, tile_stride, weights, depth, rows, products, product_stride);                      \
  }                                                                                               \
  TARGET void output(                                                                             \
      const float* matrices, int64_t matrix_stride, const float* bias, bool relu,                 \
      int64_t channels, float* const* tile) {                                                     \
    transform_output<BYTES>(matrices, matrix_stride, bias, relu, channels, tile);                 \
  }                                                                                               \
  constexpr WinogradKernels kernels{ROWS, input, product, output};                                \
  }

namespace ops_cuda::cpu {
namespace {

// With this many ROWS, two vectors of sums per row, two of weights and a broadcast fill the
// registers.
#if defined(__x86_64__)
WINOGRAD_KERNELS(
    avx512, __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma"))), 64, 14)
WINOGRAD_KERNELS(avx2, __attribute__((target("avx2,fma"))), 32, 6)
#endif
WINOGRAD_KERNELS(portable, , 16, 4)

}  // namespace

const WinogradKernels& winograd_kernels(int64_t widest_bytes) {
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  static const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw");
  if (widest_bytes >= 64 && has_avx512) return avx512::kernels;
  if (widest_bytes >= 32 && has_avx2) return avx2::kernels;
#endif
  return portable::kernels;
}

}  // namespace ops_cuda::cpu
