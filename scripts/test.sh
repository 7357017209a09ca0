#!/usr/bin/env bash
# Installs the test extras into .venv and runs the tests: scripts/test.sh [--slow] [PYTEST ARGUMENTS]
# Without --slow: everything that a change needs. With it also crashes, several processes, every
# mesh, end to end and the benchmark.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/install.sh data test twin
# Many tests start processes. Where Python keeps no bytecode, each of them compiles JAX's source anew.
unset PYTHONDONTWRITEBYTECODE
chosen=(-m "not slow")
if [ "${1:-}" = "--slow" ]; then
  chosen=()
  shift
fi
# Two processes: compilation, most of the work, uses one core each.
exec .venv/bin/pytest -n 2 --dist=worksteal "${chosen[@]}" "${@:-tests}"
