#!/usr/bin/env bash
# Runs everything that needs a GPU on a bare machine: torch >= 2.10, torchvision, pytest, nvcc, and
# pydantic, pyyaml, safetensors for the model; no cluster, no tracker.
#
#   OUT=folder PYTHON=python3 benchmarks/gpu_check.sh
#
# Builds the operators for this GPU, tests them against the CPU, and writes gpu_check.log and one
# JSON per benchmark to OUT. A failing step does not stop the others; the script fails at the end.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-benchmarks/results}
mkdir -p "$out"
log=$out/gpu_check.log
: >"$log"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
failed=()

step() {
  local name=$1
  shift
  printf '\n== %s: %s\n' "$name" "$*" | tee -a "$log"
  "$@" 2>&1 | tee -a "$log"
  if [ "${PIPESTATUS[0]}" -ne 0 ]; then failed+=("$name"); fi
}

this_gpu=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || {
  echo "no CUDA device that torch can use" | tee -a "$log"
  exit 1
}
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$this_gpu} OPS_CUDA=1

step build "$python" setup.py build_ext --inplace
step backend "$python" -c 'import ops_cuda; print(ops_cuda.backend())'
# confcutdir: the suite's conftest starts a cluster and an object store, which are missing here
mapfile -t tests < <(grep -rl 'mark\.gpu' tests/ops_cuda tests/model)
for file in "${tests[@]}"; do
  step "$file" "$python" -m pytest -q -m gpu --confcutdir="$(dirname "$file")" "$file"
done
if command -v compute-sanitizer >/dev/null; then
  # checks every access of every kernel; far slower, so only the agreement tests
  step memcheck timeout 240 compute-sanitizer --tool memcheck --error-exitcode 1 "$python" -m pytest \
    -q -m gpu --confcutdir=tests/ops_cuda -k 'agree or same' tests/ops_cuda
fi
step ops "$python" -m benchmarks.ops --device cuda --out "$out/ops_cuda.json"
for precision in fp32 bf16; do
  for benchmark in inference train_step; do
    step "$benchmark-$precision" "$python" -m "benchmarks.$benchmark" --device cuda \
      --precision "$precision" --out "$out/${benchmark}_cuda_$precision.json"
  done
done

if [ "${#failed[@]}" -gt 0 ]; then
  printf '\nfailed: %s\n' "${failed[*]}" | tee -a "$log"
  exit 1
fi
printf '\nall passed\n' | tee -a "$log"
