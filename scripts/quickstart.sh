#!/usr/bin/env bash
# From nothing to a person search: installs, generates pedestrians, trains a small IRRA on them,
# evaluates, writes runs/quickstart/report.html, puts the photos into a gallery, and answers one
# typed sentence. Minutes on a CPU.
# Usage: scripts/quickstart.sh ["a sentence to search for"]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
sentence=${1:-a woman with long hair wearing a red coat and blue jeans, carrying a black backpack}
run=runs/quickstart

scripts/install.sh data serve video
.venv/bin/python -m tipr_jax.main --config=configs/irra.py:quickstart --workdir=$run
.venv/bin/python -m tipr_jax.gallery add data/synth_pedes/CUHK-PEDES/imgs --model=$run --gallery=$run/photos.gallery
.venv/bin/python -m tipr_jax.gallery search "$sentence" --gallery=$run/photos.gallery
