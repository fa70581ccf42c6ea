// Whether this library holds code for a device: compiled for it, or PTX that its driver compiles.

#include <cuda_runtime.h>

namespace ops_cuda::gpu {

__global__ void do_nothing() {}

}  // namespace ops_cuda::gpu

// Called through ctypes: an operator would need a tensor of the device, and its kernel to run.
extern "C" __attribute__((visibility("default"))) bool ops_cuda_has_code_for(int device) {
  int previous = 0;
  if (cudaGetDevice(&previous) != cudaSuccess || cudaSetDevice(device) != cudaSuccess) {
    cudaGetLastError();  // not the error of a later call
    return false;
  }
  cudaFuncAttributes attributes;
  const bool found =
      cudaFuncGetAttributes(&attributes, ops_cuda::gpu::do_nothing) == cudaSuccess;
  cudaGetLastError();
  cudaSetDevice(previous);
  return found;
}
