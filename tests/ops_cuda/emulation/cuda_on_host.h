// Emulation of CUDA kernels on the CPU, one block at a time: enough of the language for our kernels,
// so that their logic is tested without a GPU. A kernel with barriers gets one host thread per CUDA
// thread (EMULATE_BARRIERS); any other runs its threads one after the other.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static  // blocks run one after the other

struct dim3 {
  unsigned int x, y, z;
  dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
};

inline thread_local dim3 threadIdx, blockIdx, gridDim;
inline std::unique_ptr<std::barrier<>> block_barrier;

inline void __syncthreads() { block_barrier->arrive_and_wait(); }
inline int __ffsll(unsigned long long bits) { return __builtin_ffsll(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }

template <typename T>
T atomicAdd(T* target, T value) {
  return std::atomic_ref<T>(*target).fetch_add(value);
}

template <typename T>
T atomicXor(T* target, T value) {
  return std::atomic_ref<T>(*target).fetch_xor(value);
}

struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline void atomicAdd(float4* target, float4 value) {
  float* parts = reinterpret_cast<float*>(target);
  atomicAdd(parts, value.x);
  atomicAdd(parts + 1, value.y);
  atomicAdd(parts + 2, value.z);
  atomicAdd(parts + 3, value.w);
}

inline int atomicMax(int* target, int value) {
  std::atomic_ref<int> shared(*target);
  int before = shared.load();
  while (before < value && !shared.compare_exchange_weak(before, value)) {
  }
  return before;
}
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }

using cudaStream_t = void*;
constexpr int cudaMemcpyDeviceToHost = 0;
inline void cudaMemcpyAsync(void* to, const void* from, size_t bytes, int, cudaStream_t) {
  std::memcpy(to, from, bytes);
}
inline void cudaStreamSynchronize(cudaStream_t) {}

#undef STD_CUDA_CHECK
#undef STD_CUDA_KERNEL_LAUNCH_CHECK
#define STD_CUDA_CHECK(call) call
#define STD_CUDA_KERNEL_LAUNCH_CHECK()

// Replacement of launch.h.
namespace ops_cuda::gpu {

inline cudaStream_t current_stream(const torch::stable::Tensor&) { return nullptr; }

struct NoGuard {
  ~NoGuard() {}
};
inline NoGuard on_device_of(const torch::stable::Tensor&) { return {}; }

// A small grid, so that kernels have to stride over it.
inline unsigned int blocks_for(int64_t items, int64_t per_block) {
  return std::clamp<int64_t>((items + per_block - 1) / per_block, 1, 50);
}

// Warps are the rows of a block; all threads of the block must call this.
template <typename T>
T warp_sum(T value) {
  static T values[1024];
  values[threadIdx.y * 32 + threadIdx.x] = value;
  __syncthreads();
  T sum = 0;
  for (int lane = 0; lane < 32; ++lane) sum += values[threadIdx.y * 32 + lane];
  __syncthreads();
  return sum;
}

}  // namespace ops_cuda::gpu

// kernel<<<grid, block, shared, stream>>>(arguments...)
template <typename Kernel, typename... Arguments>
void emulate(Kernel kernel, dim3 grid, dim3 block, int, cudaStream_t, Arguments... arguments) {
  const auto run_thread = [&](dim3 block_index, unsigned int x, unsigned int y) {
    threadIdx = dim3(x, y);
    blockIdx = block_index;
    gridDim = grid;
    kernel(arguments...);
  };
  for (unsigned int i = 0; i < grid.x * grid.y * grid.z; ++i) {
    const dim3 index(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
    block_barrier = std::make_unique<std::barrier<>>(block.x * block.y);
    std::vector<std::thread> threads;
    for (unsigned int t = 0; t < block.x * block.y; ++t) {
      if (EMULATE_BARRIERS) {
        threads.emplace_back([&, t] {
          run_thread(index, t % block.x, t / block.x);
          block_barrier->arrive_and_drop();
        });
      } else {
        run_thread(index, t % block.x, t / block.x);
      }
    }
    for (std::thread& thread : threads) thread.join();
  }
}
