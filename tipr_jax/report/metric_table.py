"""The table of a report: one row per set of weights, every direction of search in columns."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from tipr_jax import result_table
from tipr_jax.result_table import Row

METRIC_COLUMNS = ("R1", "R5", "R10", "mAP", "mINP", "mAP_trapezoid")  # shown if present
DIRECTIONS = {
    "t2i": "text → image",
    "t2i_rerank": "text → image, re-ranked",
    "t2i_mix": "re-ranked with the cosine",
    "i2t": "image → text",
}


def metric_section(results: Mapping[str, Any]) -> str:
    """HTML of the table of `results.json`; empty if that has no numbers."""
    if "split" not in results:
        return ""
    rows = result_table.all_rows(results)
    known = {m for r in rows for metrics in r.directions.values() for m in metrics}
    metrics = [metric for metric in METRIC_COLUMNS if metric in known]
    directions = [key for key in DIRECTIONS if any(key in r.directions for r in rows)]
    body = "".join(_row(r, directions, metrics) for r in rows)
    paragraphs = [_selection(results), *result_table.notes(results), _EXPLANATION]
    return (
        "<h2>Retrieval quality (percent)</h2>\n<div class=scroll><table class=metrics>"
        f"{_head(directions, metrics)}{body}</table></div>\n"
        + "\n".join(f"<p class=note>{html.escape(text)}</p>" for text in filter(None, paragraphs))
    )


_EXPLANATION = (
    "Rk: queries with a right image among the first k. mAP: mean average precision over all right "
    "images. mINP: how far down the last right one is."
)


def _selection(results: Mapping[str, Any]) -> str:
    """Which weights the run stands for."""
    if results["selected_on"] == "given":
        return ""
    return f"The run's weights are selected on {results['selected_on']}: step {results['step']}."


def _head(directions: Sequence[str], metrics: Sequence[str]) -> str:
    """Two rows: the directions, each over its metrics, and the metrics."""
    groups = "".join(
        f"<th class=group colspan={len(metrics)}>{html.escape(DIRECTIONS[key])}</th>"
        for key in directions
    )
    names = [cell(name, "th") for name in ("weights", "split", "step")]
    names += [
        cell(metric, "th", first=i == 0) for _ in directions for i, metric in enumerate(metrics)
    ]
    return f"<tr><th colspan=3></th>{groups}</tr>\n<tr>{''.join(names)}</tr>\n"


def _row(r: Row, directions: Sequence[str], metrics: Sequence[str]) -> str:
    cells = [cell(value, "td") for value in (r.name, r.split, r.step)]
    for key in directions:
        measured = r.directions.get(key, {})
        for i, metric in enumerate(metrics):
            shown = f"{measured[metric]:.2f}" if metric in measured else "–"
            cells.append(cell(shown, "td", first=i == 0))
    return f"<tr>{''.join(cells)}</tr>\n"


def cell(content: object, tag: str, first: bool = False) -> str:
    """A table cell; tag: "td" or "th"; first: of a group of columns."""
    return f"<{tag}{' class=first' if first else ''}>{html.escape(str(content))}</{tag}>"
