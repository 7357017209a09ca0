#!/usr/bin/env bash
# Lint, format and types, as .ci/run and .pre-commit-config.yaml run them: scripts/check_source.sh
# To mend what can be mended: .venv/bin/ruff check --fix . && .venv/bin/ruff format .
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/install.sh data test twin
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/basedpyright
