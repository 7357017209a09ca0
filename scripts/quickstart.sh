#!/usr/bin/env bash
# From nothing to a person search: installs, generates pedestrians, trains a small IRRA on them,
# evaluates, writes runs/quickstart/report.html, and answers one typed sentence. Minutes on a CPU.
# Usage: scripts/quickstart.sh ["a sentence to search for"]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
sentence=${1:-a woman with long hair wearing a red coat and blue jeans, carrying a black backpack}
run=runs/quickstart

scripts/install.sh data
.venv/bin/python -m tipr_jax.main --config=configs/irra.py:quickstart --workdir=$run
.venv/bin/python -m tipr_jax.gallery --model=$run --images=data/synth_pedes/CUHK-PEDES/imgs --query="$sentence"
