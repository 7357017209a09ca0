#!/usr/bin/env bash
# IVT's two stages on generated data: pre-training on image-caption pairs, then fine-tuning from it,
# and fine-tuning from random weights for comparison. Prints the evaluations of both.
# Usage: scripts/ivt_two_stages.sh [--config.FIELD=VALUE of the two fine-tuning runs ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/install.sh data
train() { .venv/bin/python -m tipr_jax.main --config="configs/ivt.py:$1" --workdir="runs/$2" "${@:3}"; }
train pretrain_quickstart ivt_pretrain
train finetune_quickstart ivt_finetuned --config.init_from=runs/ivt_pretrain "$@"
train finetune_quickstart ivt_scratch "$@"

.venv/bin/python - <<'PYTHON'
from tipr_jax.results import read_evaluations

print("text to image on the test split: step, R@1, mAP")
for run in ("ivt_finetuned", "ivt_scratch"):
    rows = [(step, s["test"]["t2i"]) for step, s in read_evaluations(f"runs/{run}") if "test" in s]
    print(f"{run:14}", "; ".join(f"{step}: {m['R1']:.2f} {m['mAP']:.2f}" for step, m in rows))
PYTHON
