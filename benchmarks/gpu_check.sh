#!/usr/bin/env bash
# Runs everything that needs a GPU on a bare machine: torch >= 2.10, torchvision, pytest and nvcc; no
# cluster, no tracker.
#
#   benchmarks/gpu_check.sh [--dry-run] [STEP ...]
#
# Steps, each ended after 9 minutes; without names, all of them in this order:
#
#   setup    install the packages of gpu_check_wheels.txt from WHEELS, a folder, without a network
#   build    compile the operators for this GPU; PREBUILT=1 uses the libraries in the checkout
#   tests    compare the operators and the detectors with the CPU
#   memcheck run the agreement tests under compute-sanitizer; skipped where it is not installed
#   ops      benchmarks of the operators
#   infer    benchmarks of inference, fp32 and bf16
#   train    benchmarks of the training step, fp32 and bf16, with two kinds of conventions
#   profile  kernels of one training step, by time
#
# Environment: OUT (results, default benchmarks/results), PYTHON (default python3), WHEELS, PREBUILT,
# FORCE=1 to repeat steps. OUT/STEP.json has the exit status, seconds and last line of each command
# of a step; a command that has passed is skipped the next time, so a step that ran out of time goes
# on where it was. A failing step does not stop the others; the script fails at the end. Logs are in
# OUT/STEP.log, and the numbers of the benchmarks in files of their own.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-benchmarks/results}
step_limit_s=540
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

# Prints the test files below a folder that have tests for a GPU. Others may need packages that are
# missing here, and would be imported too.
gpu_tests() {
  grep -rl --include='test_*.py' '^ *@\?pytest.mark.gpu' "$1" | sort | tr '\n' ' '
}

# Prints the commands of a step, one per line.
commands_of() {
  local precision train="$python -m benchmarks.train_step --device cuda"
  case $1 in
    setup)
      if [ -n "${WHEELS:-}" ]; then
        echo "$python -m pip install --quiet --no-index --no-deps --find-links '$WHEELS'" \
          "-r benchmarks/gpu_check_wheels.txt"
      fi
      echo "$python -c 'import torch, torchvision, pytest, hypothesis, pydantic, yaml, safetensors," \
        "simplejpeg'"
      ;;
    build)
      if [ -z "${PREBUILT:-}" ]; then
        echo "OPS_CUDA=1 TORCH_CUDA_ARCH_LIST='${TORCH_CUDA_ARCH_LIST:-$this_gpu}'" \
          "$python setup.py build_ext --inplace"
      fi
      echo "$python -c 'import ops_cuda; print(ops_cuda.backend())'"
      ;;
    tests)
      # The suite's conftest starts a cluster and an object store, which are missing here.
      echo "$python -m pytest -q -m gpu --confcutdir=tests/ops_cuda $(gpu_tests tests/ops_cuda)"
      echo "$python -m pytest -q -m gpu --confcutdir=tests/model $(gpu_tests tests/model)"
      echo "$python -m pytest -q -m gpu --noconftest tests/pipeline/train/test_host_syncs.py" \
        "tests/pipeline/stream/test_device_copy.py"
      ;;
    memcheck)
      if command -v compute-sanitizer >/dev/null; then
        echo "compute-sanitizer --tool memcheck --error-exitcode 1 $python -m pytest -q -m gpu" \
          "--confcutdir=tests/ops_cuda -k 'agree or same or equal' $(gpu_tests tests/ops_cuda)"
      fi
      ;;
    ops) echo "$python -m benchmarks.ops --device cuda --out '$out/ops_cuda.json'" ;;
    infer)
      for precision in fp32 bf16; do
        echo "$python -m benchmarks.inference --device cuda --precision $precision --batches 1 8" \
          "--out '$out/inference_cuda_$precision.json'"
      done
      ;;
    train)
      for precision in fp32 bf16; do
        echo "$train --precision $precision --conventions torchvision recipe --batch 2" \
          "--out '$out/train_step_cuda_$precision.json'"
      done
      echo "$train --precision bf16 --models mask_rcnn --conventions torchvision recipe --batch 16" \
        "--out '$out/train_step_cuda_bf16_16.json'"
      ;;
    profile) echo "$train --precision bf16 --models mask_rcnn --conventions recipe --batch 16" \
      "--repeats 1 --profile '$out/kernels_cuda.json'" ;;
  esac
}

# Runs the commands of a step that have not passed yet; fails if one of them does.
run_step() {
  local step=$1 started=$SECONDS failed=0 command begun left code
  : >"$out/$step.log"
  while IFS= read -r command; do
    if [ -z "${FORCE:-}" ] && "$python" -m benchmarks.gpu_record passed "$out/$step.json" "$command"
    then
      echo "passed before; FORCE=1 repeats it: $command"
      continue
    fi
    begun=$SECONDS
    left=$((step_limit_s - begun + started))
    echo "$command" | tee -a "$out/$step.log"
    # 124 is what timeout returns
    code=124
    if [ "$left" -gt 0 ]; then
      timeout --kill-after=10 "$left" bash -c "$command" </dev/null 2>&1 | tee -a "$out/$step.log"
      code=${PIPESTATUS[0]}
    fi
    "$python" -m benchmarks.gpu_record add "$out/$step.json" "$command" "$code" \
      $((SECONDS - begun)) "$out/$step.log"
    if [ "$code" -ne 0 ]; then failed=1; fi
  done < <(commands_of "$step")
  return "$failed"
}

if ! this_gpu=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2>/dev/null); then
  echo "no CUDA device that torch can use: nothing is run"
  this_gpu=none
  dry_run=1
fi

failed=()
for step in "${steps[@]}"; do
  printf '\n== %s\n' "$step"
  if [ -z "$(commands_of "$step")" ]; then
    echo "skipped: compute-sanitizer is not installed"
  elif [ -n "$dry_run" ]; then
    commands_of "$step"
  else
    mkdir -p "$out"
    run_step "$step" || failed+=("$step")
  fi
done

if [ "${#failed[@]}" -gt 0 ]; then
  printf '\nfailed: %s\n' "${failed[*]}"
  exit 1
fi
