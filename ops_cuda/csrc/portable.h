// Qualifiers of functions that CPU and CUDA kernels share: written once, inlined everywhere.

#pragma once

#if defined(__CUDACC__)
#define SHARED_INLINE __host__ __device__ __forceinline__
#else
// always_inline: the CPU's multiversioned loops compile these for their own instruction set
#define SHARED_INLINE inline __attribute__((always_inline))
#endif
