"""Between the weights before and after fine-tuning: how much of the old ability is worth keeping.

Fine-tuning on a few photos makes a model better there and worse elsewhere. The weights
(1 - alpha) x before + alpha x after often keep most of both (WiSE-FT, Wortsman et al., CVPR 2022,
equation 3), and cost nothing but evaluations. Alpha 0 is the model before, 1 the model after.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import harmonic_mean
from typing import Any, NamedTuple

import jax

from tipr_jax.models.method import Params

TABLE, PICTURE, DIRECTORY = "interpolation.json", "interpolation.png", "interpolated"


class Row(NamedTuple):
    """scores: {"new test": metrics, "old test": metrics, ...} of text to image, in percent."""

    alpha: float
    scores: Mapping[str, Mapping[str, float]]


def interpolate(before: Params, after: Params, alpha: float) -> Params:
    """(1 - alpha) x before + alpha x after, array by array; exact at 0 and 1.

    Raises:
      ValueError: alpha outside of 0 to 1, or models of other shapes.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}, expected 0 (before fine-tuning) to 1 (after)")
    shapes = [jax.tree.map(lambda x: x.shape, params) for params in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "the models before and after have other shapes; only one model's weights "
            "can be interpolated: fine-tune without changing its sizes"
        )
    if alpha in (0, 1):
        return after if alpha else before
    return jax.tree.map(lambda b, a: ((1 - alpha) * b + alpha * a).astype(b.dtype), before, after)


def measure(
    before: Params,
    after: Params,
    alphas: Sequence[float],
    data_sets: Mapping[str, Callable[[Params], Mapping[str, Any]]],
) -> list[Row]:
    """Evaluates every alpha on every data set.

    data_sets: {"new": evaluate, ...}; evaluate(params) -> {split: directions}, as
    `Evaluator.evaluate` gives them.
    """
    rows = []
    for alpha in alphas:
        params = interpolate(before, after, alpha)
        scores = {
            f"{name} {split}": directions["t2i"]
            for name, evaluate in data_sets.items()
            for split, directions in evaluate(params).items()
        }
        rows.append(Row(float(alpha), scores))
    return rows


def best(rows: Sequence[Row], select_by: Sequence[str], metric: str = "R1") -> Row:
    """The row with the best harmonic mean of a metric over these columns; of equal ones the first.

    It is high only where no column is low, so a model that has lost one ability is not the best.
    """
    return max(
        rows, key=lambda row: harmonic_mean([row.scores[name][metric] for name in select_by])
    )


def table(rows: Sequence[Row], chosen: Row, metric: str = "R1") -> str:
    """The rows as text, a column per data set and split, the chosen one marked."""
    names = list(rows[0].scores)
    width = max(10, *(len(name) for name in names)) + 2
    head = "alpha".ljust(8) + "".join(name.rjust(width) for name in names)
    lines = [
        f"{row.alpha:<8.2f}"
        + "".join(f"{row.scores[name][metric]:.2f}".rjust(width) for name in names)
        + ("  <- chosen" if row is chosen else "")
        for row in rows
    ]
    return "\n".join([f"{metric} in percent, text to image", head, *lines])


def save(rows: Sequence[Row], chosen: Row, directory: Path) -> None:
    """Writes the table and its picture into a run directory."""
    from matplotlib.figure import Figure

    found = {"chosen": chosen.alpha, "rows": [row._asdict() for row in rows]}
    (directory / TABLE).write_text(json.dumps(found, indent=2) + "\n")
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for name in rows[0].scores:
        axes.plot([r.alpha for r in rows], [r.scores[name]["R1"] for r in rows], "o-", label=name)
    axes.axvline(chosen.alpha, color="#888888", linestyle=":")
    axes.set_xlabel("alpha: 0 before fine-tuning, 1 after")
    axes.set_ylabel("rank-1 in percent")
    axes.legend()
    axes.grid(alpha=0.3)
    with (directory / PICTURE).open("wb") as file:  # may lie in a bucket
        figure.savefig(file, dpi=110)
