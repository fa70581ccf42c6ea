#!/usr/bin/env bash
# Runs everything that needs a GPU on a bare machine: torch >= 2.10, torchvision, pytest and nvcc; no
# cluster, no tracker.
#
#   benchmarks/gpu_check.sh [--dry-run] [STEP ...]
#
# Steps, each within 9 minutes on one GPU; without names, all of them in this order:
#
#   setup    install missing packages from WHEELS, a folder of wheels (pydantic, pydantic-core,
#            annotated-types, typing-inspection, pyyaml, safetensors), without a network
#   build    compile the operators for this GPU; PREBUILT=1 uses the libraries in the checkout
#   tests    compare the operators and the detectors with the CPU
#   memcheck run the agreement tests under compute-sanitizer, if it is installed
#   ops      benchmarks of the operators
#   infer    benchmarks of inference, fp32 and bf16
#   train    benchmarks of the training step, fp32 and bf16
#   profile  kernels of one training step, by time
#
# Environment: OUT (results, default benchmarks/results), PYTHON (default python3), WHEELS, PREBUILT,
# FORCE=1 to repeat steps. A step that has passed leaves OUT/STEP.done and is skipped the next time. A
# failing step does not stop the others; the script fails at the end. Logs are in OUT/STEP.log.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-benchmarks/results}
all_steps=(setup build tests memcheck ops infer train profile)
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

dry_run=
if [ "${1:-}" = --dry-run ]; then
  dry_run=1
  shift
fi
steps=("$@")
if [ "${#steps[@]}" -eq 0 ]; then steps=("${all_steps[@]}"); fi
for step in "${steps[@]}"; do
  if [[ " ${all_steps[*]} " != *" $step "* ]]; then
    echo "unknown step $step; steps: ${all_steps[*]}" >&2
    exit 2
  fi
done

# Prints the commands of a step, one per line.
commands_of() {
  local precision
  case $1 in
    setup)
      if [ -n "${WHEELS:-}" ]; then
        echo "$python -m pip install --quiet --no-index --find-links '$WHEELS' pydantic pyyaml safetensors"
      fi
      echo "$python -c 'import torch, torchvision, pytest, pydantic, yaml, safetensors'"
      ;;
    build)
      if [ -z "${PREBUILT:-}" ]; then
        echo "OPS_CUDA=1 TORCH_CUDA_ARCH_LIST='${TORCH_CUDA_ARCH_LIST:-$this_gpu}'" \
          "$python setup.py build_ext --inplace"
      fi
      echo "$python -c 'import ops_cuda; print(ops_cuda.backend())'"
      ;;
    tests)
      # confcutdir: the suite's conftest starts a cluster and an object store, which are missing here
      echo "$python -m pytest -q -m gpu --confcutdir=tests/ops_cuda tests/ops_cuda"
      echo "$python -m pytest -q -m gpu --confcutdir=tests/model tests/model"
      echo "$python -m pytest -q -m gpu --confcutdir=tests/pipeline/train" \
        "tests/pipeline/train/test_host_syncs.py"
      ;;
    memcheck)
      if command -v compute-sanitizer >/dev/null; then
        echo "timeout 500 compute-sanitizer --tool memcheck --error-exitcode 1 $python -m pytest -q" \
          "-m gpu --confcutdir=tests/ops_cuda -k 'agree or same or equal' tests/ops_cuda"
      fi
      ;;
    ops) echo "$python -m benchmarks.ops --device cuda --out '$out/ops_cuda.json'" ;;
    infer | train)
      for precision in fp32 bf16; do
        case $1 in
          infer) echo "$python -m benchmarks.inference --device cuda --precision $precision" \
            "--batches 1 8 --out '$out/inference_cuda_$precision.json'" ;;
          train) echo "$python -m benchmarks.train_step --device cuda --precision $precision" \
            "--batch 2 --out '$out/train_step_cuda_$precision.json'" ;;
        esac
      done
      if [ "$1" = train ]; then
        echo "$python -m benchmarks.train_step --device cuda --precision bf16 --models mask_rcnn" \
          "--batch 16 --out '$out/train_step_cuda_bf16_16.json'"
      fi
      ;;
    profile) echo "$python -m benchmarks.train_step --device cuda --precision bf16 --models mask_rcnn" \
      "--batch 2 --repeats 1 --profile '$out/profile_cuda.txt'" ;;
  esac
}

if ! this_gpu=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2>/dev/null); then
  echo "no CUDA device that torch can use: nothing is run"
  this_gpu=none
  dry_run=1
fi

failed=()
mkdir -p "$out"
for step in "${steps[@]}"; do
  printf '\n== %s\n' "$step"
  if [ -n "$dry_run" ]; then
    commands_of "$step"
    continue
  fi
  if [ -e "$out/$step.done" ] && [ -z "${FORCE:-}" ]; then
    echo "passed before; FORCE=1 repeats it"
    continue
  fi
  : >"$out/$step.log"
  passed=1
  while IFS= read -r command; do
    echo "$command" | tee -a "$out/$step.log"
    bash -c "$command" 2>&1 | tee -a "$out/$step.log"
    if [ "${PIPESTATUS[0]}" -ne 0 ]; then passed=; fi
  done < <(commands_of "$step")
  if [ -n "$passed" ]; then touch "$out/$step.done"; else failed+=("$step"); fi
done

if [ "${#failed[@]}" -gt 0 ]; then
  printf '\nfailed: %s\n' "${failed[*]}"
  exit 1
fi
