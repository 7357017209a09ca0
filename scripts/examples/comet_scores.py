"""Scores translations with COMET, for data_pipelines.ldat; needs unbabel-comet alone.

COMET wants older packages than tipr_jax, so it gets a venv of its own (two lines, once; its models
of the family CometKiwi, which need no reference, ask for a login and consent at huggingface.co):

  uv venv --python 3.11 comet
  uv pip install --python comet unbabel-comet
  python -m data_pipelines.ldat run --config.data.root=/data --config.target=zh \\
      --config.scorer=command \\
      --config.command.run="comet/bin/python scripts/examples/comet_scores.py"

Reads a line {"src": ..., "mt": ...} per pair, and {"ref": ...} where the model wants one; an empty
line ends a batch. Writes a score in 0..1 per line, and an empty line after each batch. Arguments:
the model's name or checkpoint, Unbabel/wmt22-cometkiwi-da if there is none.
"""

import json
import os
import sys

import torch
from comet import download_model, load_from_checkpoint  # pyright: ignore[reportMissingImports]


def main(model: str = "Unbabel/wmt22-cometkiwi-da") -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what COMET itself prints is no answer
    scorer = load_from_checkpoint(model if os.path.isfile(model) else download_model(model))
    gpus, pairs = int(torch.cuda.is_available()), []
    for line in sys.stdin:
        if line.strip():
            pairs.append(json.loads(line))
            continue
        found = scorer.predict(pairs, batch_size=32, gpus=gpus, progress_bar=False).scores
        # Its scores leave 0..1 a little at times.
        scores = [min(max(float(score), 0.0), 1.0) for score in found]
        print(*scores, "", sep="\n", file=answers, flush=True)
        pairs = []


if __name__ == "__main__":
    main(*sys.argv[1:])
