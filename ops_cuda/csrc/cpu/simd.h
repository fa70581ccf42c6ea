// One binary for every x86-64: hot functions are compiled for several instruction sets, and the
// loader picks one.
//
// Results do not depend on that choice: the library is built with -ffp-contract=off, so a sum of
// products is rounded the same with and without fused multiply-add hardware.

#pragma once

#include "../portable.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(OPS_ONE_VERSION)
#if __GNUC__ >= 12
#define MULTIVERSION __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define MULTIVERSION __attribute__((target_clones("default", "avx2", "avx512f")))
#endif
#else
#define MULTIVERSION
#endif

namespace ops_cuda::cpu {

// 64 bytes: one AVX-512 register, two of AVX2, four of SSE; aligned only as a T.
template <typename T>
struct Lanes;

template <>
struct Lanes<float> {
  typedef float type __attribute__((vector_size(64), aligned(4), may_alias));
};

template <>
struct Lanes<double> {
  typedef double type __attribute__((vector_size(64), aligned(8), may_alias));
};

}  // namespace ops_cuda::cpu
