#!/usr/bin/env bash
# Installs the test extras into .venv and runs the tests: scripts/test.sh [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/install.sh data test convert
exec .venv/bin/python -m pytest "${@:-tests}"
