#!/usr/bin/env bash
# A fast part of the tests with other versions of what tipr_jax stands on: scripts/test_versions.sh oldest|newest
# oldest: Python 3.11 and the lower bounds of setup.py; newest: Python 3.13 and the newest JAX. Each
# in an environment of its own, .venv-oldest and .venv-newest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
  oldest) version=3.11 resolution=lowest-direct ;;
  newest) version=3.13 resolution=highest ;;
  *)
    echo "error: expected oldest or newest, as in scripts/test_versions.sh newest" >&2
    exit 2
    ;;
esac
python=
for candidate in "python$version" "$HOME"/.pyenv/versions/"$version".*/bin/python; do
  # A name on the path may be a shim of pyenv that leads nowhere.
  if "$candidate" -c 'import venv' > /dev/null 2>&1; then python=$candidate; fi
done
if [ -z "$python" ]; then
  echo "there is no Python $version here: these versions were not tested"
  exit 0
fi
env=.venv-$1
want=$(cat setup.py)
if [ ! -f "$env/.installed" ] || [ "$(cat "$env/.installed")" != "$want" ]; then
  echo "installing into $env ($("$python" --version)) ..."
  "$python" -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check uv
  "$env/bin/python" -m uv pip install --quiet --python "$env/bin/python" --resolution "$resolution" -e '.[data,test]'
  echo "$want" > "$env/.installed"
fi
"$env/bin/python" -c "import sys, jax, flax, optax, orbax.checkpoint as ocp, numpy
print(f'Python {sys.version.split()[0]}, jax {jax.__version__}, flax {flax.__version__}, optax {optax.__version__},',
      f'orbax-checkpoint {ocp.__version__}, numpy {numpy.__version__}')"
unset PYTHONDONTWRITEBYTECODE
exec "$env/bin/python" -m pytest -n 2 -m "not slow" -p no:cacheprovider tests/losses tests/metrics tests/text \
  tests/preprocess tests/test_checkpoints.py tests/test_train_step.py tests/inference/test_exported.py tests/gallery/test_index.py
