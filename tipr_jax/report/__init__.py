"""The report of a run: `report.html` with metric table, curves and ranked retrieval pictures.

`write_report` reads what a run leaves in its directory (`metrics.jsonl`, `results.json`,
`config.json`; each may be absent) and writes `report.html`, with its pictures in `report/`. The
page needs no network and no other file. Everything that comes from data is HTML-escaped.
"""

import html
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from tipr_jax import bucket, run_files
from tipr_jax.paths import place
from tipr_jax.report.curves import curve_section, read_curves
from tipr_jax.report.metric_table import cell, metric_section
from tipr_jax.report.sheets import RetrievalSheet, sheet_section

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
table.metrics th, table.metrics td {{ padding: .25em .45em; }}
table.metrics .first {{ padding-left: 1.4em; }}
th.group {{ text-align: center; }} .scroll {{ overflow-x: auto; }}
.note {{ color: #666; font-size: .9em; }}
img.curve {{ max-width: 49%; }} img.wide {{ max-width: 100%; }}
figure {{ margin: 1.2em 0; }} figcaption {{ margin-bottom: .3em; overflow-wrap: anywhere; }}
</style></head>
<body><h1>{title}</h1>
{body}
</body></html>
"""


def write_report(
    workdir: str | os.PathLike,
    *,
    title: str = "Text-to-image person retrieval",
    sheets: Mapping[str, Sequence[RetrievalSheet]] | None = None,
) -> pathlib.Path:
    """Writes `workdir/report.html` and its pictures, replacing an earlier report.

    Scalars of `metrics.jsonl` are drawn by name: names that end in a metric ("val/R1", "val/mAP")
    in one figure, names with "loss" in one, every other name in a small one of its own.
    `results.json` is as `results.summarise` describes it.

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
    workdir = place(workdir)
    if not workdir.is_dir():
        raise FileNotFoundError(f"{workdir} does not exist; train first, or fix --workdir")
    results = _read_json(workdir / run_files.RESULTS)
    config = _read_json(workdir / run_files.CONFIG)
    for old in (workdir / run_files.REPORT_PICTURES).glob("sheet_*.png"):
        old.unlink()
    with bucket.filled(workdir / run_files.REPORT_PICTURES) as pictures:
        sections = [
            metric_section(results),
            curve_section(read_curves(workdir), pictures),
            *(sheet_section(h, s, pictures, i) for i, (h, s) in enumerate((sheets or {}).items())),
            _config_section(config),
        ]
    page = _PAGE.format(title=html.escape(title), body="\n".join(filter(None, sections)))
    path = workdir / run_files.REPORT
    draft = path.with_name(f"{run_files.REPORT}.tmp")
    draft.write_text(page, "utf-8")
    draft.replace(path)
    return path


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


def _config_section(config: Mapping) -> str:
    if not config:
        return ""
    rows = "".join(
        f"<tr>{cell(name, 'td')}{cell(json.dumps(value), 'td')}</tr>\n"
        for name, value in _flatten(config)
    )
    details = f"<details><summary>all fields</summary><table>{rows}</table></details>"
    return "<h2>Configuration</h2>\n" + details


def _flatten(config: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
