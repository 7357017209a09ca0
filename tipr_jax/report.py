"""The report of a run: `report.html` with curves, metric table and ranked retrieval pictures.

`write_report` reads what a run leaves in its directory (`metrics.jsonl`, `results.json`,
`config.json`; each may be absent) and writes `report.html`, with its pictures in `report/`. The
page needs no network and no other file. Everything that comes from data is HTML-escaped.
"""

import dataclasses
import html
import json
import math
import os
import pathlib
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from PIL import Image

METRIC_COLUMNS = ("R1", "R5", "R10", "mAP", "mINP", "mAP_trapezoid")  # shown if present
_DIRECTIONS = {
    "t2i": "text → image",
    "t2i_rerank": "text → image, re-ranked",
    "i2t": "image → text",
}
_NEUTRAL = "#555555"
_FRAMES = {  # is_correct -> colour, line style, mark
    True: ("#1a9850", "solid", " ✓"),
    False: ("#d73027", (0, (3, 1.5)), " ✗"),
    None: (_NEUTRAL, "solid", ""),
}
_THUMBNAIL = (128, 256)  # largest width, height in pixels
_RANKED_IMAGES = 10

Curves = dict[str, tuple[list[int], list[float]]]  # scalar name -> (steps, values)


@dataclasses.dataclass(frozen=True)
class RetrievalSheet:
    """One query and what was found.

    Attributes:
      query: the sentence that was searched for.
      query_image_path: an image of the person the sentence describes; None if that is not known.
      ranked: (image path, score, shows the right person), best first; the first ten are drawn.
        The last is None in a search without ground truth.
    """

    query: str
    query_image_path: str | None
    ranked: Sequence[tuple[str, float, bool | None]]


def write_report(
    workdir: str | os.PathLike,
    *,
    title: str = "Text-to-image person retrieval",
    sheets: Mapping[str, Sequence[RetrievalSheet]] | None = None,
) -> pathlib.Path:
    """Writes `workdir/report.html` and its pictures, replacing an earlier report.

    Scalars of `metrics.jsonl` are drawn by name: names that end in a metric ("val/R1", "val/mAP")
    in one figure, names with "loss" in one, every other name in a small one of its own.
    `results.json` is one block `{"split", "step", "selected_on", "t2i": {...}, "i2t": {...}}` in
    percent; further blocks of that form may be nested in it under names that label their rows, such
    as "last", "untrained" or a language.

    Args:
      workdir: the run directory.
      title: heading of the page.
      sheets: heading ("Best queries") -> sheets shown under it.

    Returns:
      The path of `report.html`.

    Raises:
      FileNotFoundError: `workdir` does not exist.
      ValueError: `results.json` or `config.json` is not valid JSON.
    """
    workdir = pathlib.Path(workdir)
    if not workdir.is_dir():
        raise FileNotFoundError(f"{workdir} does not exist; train first, or fix --workdir")
    results, config = _read_json(workdir / "results.json"), _read_json(workdir / "config.json")
    pictures = workdir / "report"
    pictures.mkdir(exist_ok=True)
    for old in pictures.glob("sheet_*.png"):
        old.unlink()
    sections = [
        _metric_section(results),
        _curve_section(_read_curves(workdir / "metrics.jsonl"), pictures),
        *(_sheet_section(h, s, pictures, i) for i, (h, s) in enumerate((sheets or {}).items())),
        _config_section(config),
    ]
    page = _PAGE.format(title=html.escape(title), body="\n".join(filter(None, sections)))
    draft = workdir / "report.html.tmp"
    draft.write_text(page, "utf-8")
    os.replace(draft, workdir / "report.html")
    return workdir / "report.html"


def _read_json(path: pathlib.Path) -> dict:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); delete it or run again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a JSON object")
    return content


# Metric table


def _result_blocks(results: Mapping, label: str = "") -> Iterator[tuple[str, Mapping]]:
    """Every block that holds metrics, with the names that lead to it."""
    if "t2i" in results or "i2t" in results:
        yield label, results
    for name, value in results.items():
        if isinstance(value, Mapping) and name not in _DIRECTIONS:
            yield from _result_blocks(value, f"{label} {name}".strip())


def _metric_section(results: Mapping) -> str:
    rows, blocks = [], list(_result_blocks(results))
    known = {m for _, block in blocks for key in _DIRECTIONS for m in block.get(key, ())}
    columns = [m for m in METRIC_COLUMNS if m in known]
    for label, block in blocks:
        selected_on = block.get("selected_on")
        selected = f"selected on {selected_on}" if selected_on and "selected" not in label else ""
        name = (
            ", ".join(filter(None, (label.removeprefix("others ").replace("_", " "), selected)))
            or "result"
        )
        for key, direction in _DIRECTIONS.items():
            if key in block:
                cells = [name, block.get("split", ""), block.get("step", ""), direction]
                cells += [_percent(block[key].get(metric)) for metric in columns]
                rows.append(_row(cells, "td"))
    if not rows:
        return ""
    head = _row(["", "split", "step", "search", *columns], "th")
    return (
        f"<h2>Retrieval quality (percent)</h2>\n<table>{head}{''.join(rows)}</table>\n"
        "<p class=note>R<i>k</i>: queries with a right image among the first <i>k</i>. mAP: mean "
        "average precision over all right images. mINP: how far down the last right one is.</p>"
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _row(cells: Iterable[object], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells) + "</tr>\n"


# Curves


def _read_curves(path: pathlib.Path) -> Curves:
    """Finite values of every scalar; lines that are not whole records are skipped."""
    curves: Curves = {}
    if not path.exists():
        return curves
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            step = int(record.pop("step"))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        record.pop("time", None)
        for name, value in record.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
    return curves


def _curve_section(curves: Curves, pictures: pathlib.Path) -> str:
    if not curves:
        return ""
    metrics = {n: c for n, c in curves.items() if n.rpartition("/")[2] in METRIC_COLUMNS}
    losses = {n: c for n, c in curves.items() if "loss" in n and n not in metrics}
    rest = {n: c for n, c in curves.items() if n not in metrics and n not in losses}
    images = []
    if losses:
        _draw_curves([("loss", losses)], pictures / "losses.png", columns=1, size=(7.0, 3.6))
        images.append('<img class=curve src="report/losses.png" alt="losses">')
    if metrics:
        panels = _metric_panels(metrics)
        _draw_curves(panels, pictures / "metrics.png", columns=2, size=(4.5, 2.8), legend=True)
        images.append('<img class=wide src="report/metrics.png" alt="metrics">')
    if rest:
        panels = [(name, {name: curve}) for name, curve in rest.items()]
        _draw_curves(panels, pictures / "others.png", columns=4, size=(3.5, 2.2))
        images.append('<img class=wide src="report/others.png" alt="other scalars">')
    return "<h2>Training</h2>\n" + "\n".join(images)


def _metric_panels(metrics: Curves) -> list[tuple[str, Curves]]:
    """One panel per split and direction: "eval/test/t2i/R1" is a line of "test, text → image"."""
    panels: dict[str, Curves] = {}
    for name, curve in metrics.items():
        *group, metric = name.removeprefix("eval/").split("/")
        title = ", ".join(_DIRECTIONS.get(part, part) for part in group)
        panels.setdefault(title, {})[metric] = curve
    return list(panels.items())


def _draw_curves(
    panels: Sequence[tuple[str, Curves]],
    path: pathlib.Path,
    *,
    columns: int,
    size: tuple,
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


# Retrieval sheets


def _sheet_section(
    heading: str, sheets: Sequence[RetrievalSheet], pictures: pathlib.Path, index: int
) -> str:
    parts = [f"<h2>{html.escape(heading)}</h2>"]
    for number, sheet in enumerate(sheets):
        path = pictures / f"sheet_{index}_{number}.png"
        draw_sheet(sheet, path)
        right = [i for i, (_, _, is_correct) in enumerate(sheet.ranked, 1) if is_correct]
        found = f"first right image at rank {right[0]}" if right else "no right image shown"
        parts.append(
            f"<figure><figcaption>“{html.escape(sheet.query)}” <span class=note>{found}</span>"
            f'</figcaption><img class=wide src="report/{path.name}" alt="{found}"></figure>'
        )
    return "\n".join(parts)


def draw_sheet(sheet: RetrievalSheet, path: str | os.PathLike) -> None:
    """Draws one sheet as a PNG: sentence, ground truth, then the ranked images with rank and score.

    Right images have a green solid frame and a tick, wrong ones a red dashed frame and a cross. An
    image that cannot be read is drawn as an empty grey one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ranked = sheet.ranked[:_RANKED_IMAGES]
    figure = Figure(figsize=(13.2, 3.1), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_drawable(sheet.query), fontsize=11, parse_math=False)
    axes = list(figure.subplots(1, 1 + _RANKED_IMAGES))
    if sheet.query_image_path is None:
        axes.pop().set_axis_off()
    else:
        _draw_image(axes.pop(0), sheet.query_image_path, "described person", _NEUTRAL, "solid")
    for rank, (image_path, score, is_correct) in enumerate(ranked, 1):
        colour, style, mark = _FRAMES[is_correct]
        _draw_image(axes[rank - 1], image_path, f"{rank}{mark}  {score:.3f}", colour, style)
    for unused in axes[len(ranked) :]:
        unused.set_axis_off()
    figure.savefig(path, dpi=100)


def _draw_image(axes, image_path: str, label: str, colour: str, style: object) -> None:
    try:
        with Image.open(image_path) as image:
            image.draft("RGB", _THUMBNAIL)
            image.thumbnail(_THUMBNAIL)
            axes.imshow(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError):
        axes.imshow(Image.new("RGB", (_THUMBNAIL[0] // 2, _THUMBNAIL[1] // 2), "#dddddd"))
        label += "\n(unreadable)"
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(label, fontsize=9, color=colour)
    for spine in axes.spines.values():
        spine.set(edgecolor=colour, linewidth=3, linestyle=style)


def _drawable(text: str) -> str:
    """The text, wrapped; characters that matplotlib's font lacks (Chinese) are left to the page."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    if any(ord(c) not in font.get_charmap() for c in text if not c.isspace()):
        return ""
    return "\n".join(textwrap.wrap(text, 130, max_lines=3, placeholder=" …"))


# Configuration and page


def _config_section(config: Mapping) -> str:
    if not config:
        return ""
    rows = "".join(_row((name, json.dumps(value)), "td") for name, value in _flatten(config))
    details = f"<details><summary>all fields</summary><table>{rows}</table></details>"
    return "<h2>Configuration</h2>\n" + details


def _flatten(config: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 1180px; margin: 2em auto; padding: 0 1em; }}
h1 {{ font-size: 1.6em; }}
h2 {{ font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25em .8em; text-align: right; border-bottom: 1px solid #eee; }}
th:first-child, td:first-child {{ text-align: left; }}
.note {{ color: #666; font-size: .9em; }}
img.curve {{ max-width: 49%; }} img.wide {{ max-width: 100%; }}
figure {{ margin: 1.2em 0; }} figcaption {{ margin-bottom: .3em; overflow-wrap: anywhere; }}
</style></head>
<body><h1>{title}</h1>
{body}
</body></html>
"""
