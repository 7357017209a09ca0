#!/usr/bin/env bash
# Installs tipr_jax into .venv: scripts/install.sh [EXTRA ...], e.g. scripts/install.sh data test convert.
# A rerun with nothing changed returns at once. uv does in seconds what takes pip minutes; PyTorch
# (extra "convert", and "twin" with torchvision and ONNX Runtime) comes through pip, which finds CPU
# builds where uv would fetch gigabytes of CUDA.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "error: $python is $("$python" --version 2>&1 || true); tipr_jax needs Python 3.11 or newer (set PYTHON=...)" >&2
  exit 1
fi

want="$(cat setup.py) $*"
stamp=.venv/.installed-$(echo "$*" | tr ' ' '-')
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then exit 0; fi

echo "installing tipr_jax into .venv (extras: ${*:-none}) ..."
if [ ! -x .venv/bin/python ]; then
  "$python" -m venv .venv || {
    echo "error: cannot create .venv; on Debian/Ubuntu: apt-get install python3-venv" >&2
    exit 1
  }
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check uv

extras=()
for extra in "$@"; do
  case "$extra" in
    convert) torch=('torch==2.13.0') ;;
    twin) torch=('torch==2.13.0' 'torchvision==0.28.0' 'onnx>=1.17' 'onnxscript>=0.5' 'onnxruntime>=1.20') ;;
    *)
      extras+=("$extra")
      continue
      ;;
  esac
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "${torch[@]}"
done
joined=$(IFS=,; echo "${extras[*]:-}")
.venv/bin/python -m uv pip install --quiet --python .venv/bin/python -e ".${joined:+[$joined]}"
echo "$want" > "$stamp"
