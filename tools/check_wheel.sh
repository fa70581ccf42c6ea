#!/bin/sh
# Builds the wheel with this environment's torch, installs it with another torch, and runs the
# operator tests there.
#
#   PYTHON=.venv/bin/python tools/check_wheel.sh 2.10.0 0.25.0     torch, torchvision
#   PYTHON=.venv/bin/python tools/check_wheel.sh 2.13.0            without torchvision: skips its tests
set -eu
torch=$1
torchvision=${2:-}
python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m pip wheel "$root" --quiet --no-deps --no-build-isolation --wheel-dir "$work"
"$python" -m venv "$work/venv"
other=$work/venv/bin/python
"$other" -m pip install --quiet "torch==$torch" ${torchvision:+"torchvision==$torchvision"} \
  numpy pycocotools pytest hypothesis
"$other" -m pip install --quiet --no-deps "$work"/*.whl

# a copy: the checkout itself must not be importable
mkdir -p "$work/suite/tests"
cp -r "$root/tests/ops_cuda" "$root/tests/real_images.py" "$work/suite/tests/"
cd "$work/suite"
"$other" -c 'import torch, ops_cuda; print(torch.__version__, ops_cuda.__file__, ops_cuda.backend())'
skipped=
if [ -z "$torchvision" ]; then
  skipped=$(grep -rl 'import torchvision\|from torchvision' tests | sed 's/^/--ignore=/')
fi
# the emulation of the CUDA kernels compiles their sources, which are not in the wheel
# shellcheck disable=SC2086
"$other" -m pytest -q --confcutdir=tests/ops_cuda --ignore=tests/ops_cuda/test_cuda_emulated.py \
  $skipped tests/ops_cuda
