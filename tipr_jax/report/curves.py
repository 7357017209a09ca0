"""Curves of a run's scalars over its steps."""

import math
import pathlib
from collections.abc import Sequence

from tipr_jax import run_files
from tipr_jax.report.metric_table import DIRECTIONS, METRIC_COLUMNS
from tipr_jax.results import RERANK_K

Curves = dict[str, tuple[list[int], list[float]]]  # scalar name -> (steps, values)


def read_curves(workdir: pathlib.Path) -> Curves:
    """Finite values of every scalar in `metrics.jsonl`."""
    curves: Curves = {}
    for step, row in run_files.read_metrics(workdir):
        for name, value in row.items():
            if name in ("step", "time", RERANK_K):
                continue
            if isinstance(value, (int, float)) and math.isfinite(value):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
    return curves


def curve_section(curves: Curves, pictures: pathlib.Path) -> str:
    """HTML of all curves, drawn into `pictures`; empty without any."""
    if not curves:
        return ""
    metrics = {n: c for n, c in curves.items() if n.rpartition("/")[2] in METRIC_COLUMNS}
    losses = {n: c for n, c in curves.items() if "loss" in n and n not in metrics}
    rest = {n: c for n, c in curves.items() if n not in metrics and n not in losses}
    images = []
    if losses:
        _draw_curves([("loss", losses)], pictures / "losses.png", columns=1, size=(7.0, 3.6))
        images.append(f'<img class=curve src="{pictures.name}/losses.png" alt="losses">')
    if metrics:
        panels = _metric_panels(metrics)
        _draw_curves(panels, pictures / "metrics.png", columns=2, size=(4.5, 2.8), legend=True)
        images.append(f'<img class=wide src="{pictures.name}/metrics.png" alt="metrics">')
    if rest:
        panels = [(name, {name: curve}) for name, curve in rest.items()]
        _draw_curves(panels, pictures / "others.png", columns=4, size=(3.5, 2.2))
        images.append(f'<img class=wide src="{pictures.name}/others.png" alt="other scalars">')
    return "<h2>Training</h2>\n" + "\n".join(images)


def _metric_panels(metrics: Curves) -> list[tuple[str, Curves]]:
    """One panel per split and direction: "eval/test/t2i/R1" is a line of "test, text → image"."""
    panels: dict[str, Curves] = {}
    for name, curve in metrics.items():
        *group, metric = name.removeprefix("eval/").split("/")
        title = ", ".join(DIRECTIONS.get(part, part) for part in group)
        panels.setdefault(title, {})[metric] = curve
    return list(panels.items())


def _draw_curves(
    panels: Sequence[tuple[str, Curves]],
    path: pathlib.Path,
    *,
    columns: int,
    size: tuple[float, float],
    legend: bool = False,
) -> None:
    """One panel per (title, curves); `size` is one panel's width and height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for i, (title, curves) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        for name, (steps, values) in curves.items():
            marker = "o" if len(steps) <= 30 else None
            axes.plot(steps, values, label=name, linewidth=1.4, marker=marker, markersize=3)
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(panels) > 1:
            axes.set_title(title, fontsize=9, parse_math=False)
        else:
            axes.set_ylabel(title)
        if legend or len(panels) == 1:
            axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=110)
