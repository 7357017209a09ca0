#!/usr/bin/env bash
# Installs the test extras into .venv and runs the tests: scripts/test.sh [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/install.sh data test twin
# Two processes, a file of tests at a time: compilation, most of the work, uses one core each.
exec .venv/bin/python -m pytest -n 2 --dist=loadfile "${@:-tests}"
