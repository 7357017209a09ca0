#!/usr/bin/env python
"""What the matching head of a run knows, checkpoint by checkpoint: a table and a picture.

  python scripts/match_curves.py --config=configs/bi_irra.py:quickstart --workdir=runs/mine
  python scripts/match_curves.py ... --split=val --config.eval.rerank_k=64
  python scripts/match_curves.py ... --workdir=runs/mine/warm_start --config.data.root=other_people

For every kept checkpoint (train with --config.checkpoint.keep_last=100 to keep all) and language:

  cosine    R@1 of the first stage
  match     R@1 of its best candidates, ordered by the matching head's logit of "match"
  diff      the same by the difference of both logits
  oracle    R@1 if the right person came first whenever he or she is among the candidates
  AUC rand  how well the head tells a caption's own image from a random other person's
  AUC cand  ... from another person among the candidates: the task of the second stage
  AUC cos   what the cosine makes of that task

All in percent. A head that is good at random negatives and poor at candidates has seen too easy
negatives in training.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a bare checkout

from tipr_jax import checkpoints, command_line, experiment, interrupt, run_files
from tipr_jax.evaluator import Evaluator, SplitFeatures
from tipr_jax.gallery.calibration import auc
from tipr_jax.main import open_data
from tipr_jax.metrics.rerank import candidate_cosines, cosine_candidates, match_score
from tipr_jax.models.method import Params
from tipr_jax.pretrained import start
from tipr_jax.train_state import select_params

# --config and --workdir come with tipr_jax.main.
_SPLIT = flags.DEFINE_string("split", "test", "The people that are searched for: val or test")

Row = tuple[int, str, dict[str, float]]
COLUMNS = ("cosine", "match", "diff", "oracle", "AUC rand", "AUC cand", "AUC cos")


def rows(config: ConfigDict, run: Path, split: str) -> Iterator[Row]:
    """(step, split with its language, the columns) of every kept checkpoint.

    Raises:
      ValueError: no checkpoints, or a model that cannot match.
    """
    if not (steps := run_files.saved_steps(run)):
        raise ValueError(f"--workdir={run} has no checkpoints; train first, or check it")
    config = start.sized_like(config, run)
    data = open_data(config, run)
    exp = experiment.build(config)
    evaluator = Evaluator(exp, data)
    if evaluator.reranker is None:
        raise ValueError(
            f"nothing to measure: --config.eval.rerank_k is {config.eval.rerank_k}, the method "
            f"{config.method} with losses {config.model.get('losses')}"
        )
    wanted = experiment.for_inference(exp).abstract_params
    for step in steps:
        arrays = checkpoints.load_run_params(run, step)[1]
        params = experiment.put_inference_params(exp, select_params(arrays, wanted))
        splits = data.evaluation_splits((split,))
        for name, found in evaluator.features(params, splits, tokens=True):
            yield step, name, measure(evaluator, params, name, found)


def measure(
    evaluator: Evaluator, params: Params, split: str, features: SplitFeatures
) -> dict[str, float]:
    """The columns of one checkpoint and split."""
    annotations, text, image = evaluator.data.splits[split], features.text, features.image
    asked, shown = annotations.caption_person_id, annotations.image_person_id

    def logits(candidates: np.ndarray) -> np.ndarray:
        assert evaluator.reranker is not None, "checked in rows"
        assert features.image_tokens is not None, "asked for in rows"
        texts = evaluator.data.text_batches(split, np.arange(evaluator.config.eval.batch_size))
        selected = evaluator.encoders.select(params)
        return evaluator.reranker(selected, texts, features.image_tokens, candidates, split)

    near = cosine_candidates(text, image, evaluator.config.eval.rerank_k)
    own = annotations.caption_image_id[:, None]
    drawn = np.random.default_rng(0).integers(len(image), size=(len(text), 4))
    near_logits, own_logits, drawn_logits = (logits(x.astype(np.int32)) for x in (near, own, drawn))
    right, other = shown[near] == asked[:, None], shown[drawn] != asked[:, None]
    difference = match_score(near_logits, "logit_diff")
    own_difference = match_score(own_logits, "logit_diff").ravel()
    cosine = candidate_cosines(text, image, near)
    values = (
        right[:, 0].mean(),
        first_is_right(right, match_score(near_logits)),
        first_is_right(right, difference),
        right.any(axis=1).mean(),
        auc(own_difference, match_score(drawn_logits, "logit_diff")[other]),
        auc(own_difference, difference[~right]),
        auc(candidate_cosines(text, image, own).ravel(), cosine[~right]),
    )
    return {name: 100 * float(value) for name, value in zip(COLUMNS, values, strict=True)}


def first_is_right(right: np.ndarray, score: np.ndarray) -> float:
    """The share of queries whose best candidate by score [Q,k] shows the right person."""
    best = np.argmax(score, axis=1)
    return float(right[np.arange(len(right)), best].mean())


def draw(table: list[Row], path: Path) -> None:
    """R@1 above, AUC below, against steps; a column for each split."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    splits = list(dict.fromkeys(split for _, split, _ in table))
    figure, axes = pyplot.subplots(
        2, len(splits), figsize=(5 * len(splits), 7), sharex=True, sharey="row", squeeze=False
    )
    for split, (above, below) in zip(splits, axes.T, strict=True):
        mine = [(step, values) for step, name, values in table if name == split]
        for name in COLUMNS:
            axis: Any = below if name.startswith("AUC") else above
            x, y = zip(*((step, values[name]) for step, values in mine), strict=True)
            axis.plot(x, y, marker=".", label=name)
        above.set(title=split, ylabel="R@1 in %")
        below.set(xlabel="step", ylabel="AUC in %")
        for axis in (above, below):
            axis.legend()
            axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main(argv: list[str]) -> None:
    command_line.setup_process()
    with command_line.mistakes_in_one_line(traceback=flags.FLAGS.verbosity > 0):
        workdir = Path(flags.FLAGS.workdir).absolute()
        print(f"{'step':>7} {'split':<9}" + "".join(f"{name:>10}" for name in COLUMNS))
        table = []
        for step, split, values in rows(flags.FLAGS.config, workdir, _SPLIT.value):
            cells = "".join(f"{values[name]:10.2f}" for name in COLUMNS)
            print(f"{step:>7} {split:<9}{cells}", flush=True)
            table.append((step, split, values))
        picture = workdir / "match_curves.png"
        draw(table, picture)
        print(f"picture: {picture}")


if __name__ == "__main__":
    interrupt.watch()
    app.run(main, flags_parser=command_line.parse)
