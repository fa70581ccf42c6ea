#!/bin/sh
# Installs what pip cannot: a C++ compiler, Python's headers and venv. Does nothing if they exist.
set -eu

python=${PYTHON:-python3}
missing=""
command -v c++ >/dev/null 2>&1 || missing="$missing g++"
command -v "$python" >/dev/null 2>&1 || missing="$missing python3 python3-venv python3-dev"
if command -v "$python" >/dev/null 2>&1; then
  "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || missing="$missing python3-venv"
  "$python" -c 'import os, sysconfig
assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))' \
    >/dev/null 2>&1 || missing="$missing python3-dev"
fi
[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  apt-get update -qq
  # shellcheck disable=SC2086 # a list of packages
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
else
  echo "Please install these packages first:$missing" >&2
  echo "  Debian, Ubuntu: sudo apt-get install$missing" >&2
  exit 1
fi
