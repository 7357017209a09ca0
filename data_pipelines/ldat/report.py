"""ldat_report.json and report.html: how many are noisy, the histogram of the noise, samples.

The page needs no network and no other file. Captions are escaped.
"""

import collections
import dataclasses
import hashlib
import heapq
import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.ldat import outcome
from data_pipelines.ldat.generated import GeneratedTranslator
from data_pipelines.ldat.outcome import Final
from data_pipelines.ldat.stages import open_failures
from data_pipelines.ldat.work import Work

_BINS = 20  # of 0.05
_SAMPLES = 12  # of a status
_SHOWN = ("clean", "kept", "rewritten", "corrected")


@dataclasses.dataclass
class Report:
    """What `ldat_report.json` holds."""

    target: str
    backends: dict[str, str]
    theta: float
    captions: int
    clean: int
    noisy: int
    statuses: dict[str, int]
    failures: dict[str, int]  # by stage: what failed and has not been done since
    histogram: list[int]  # captions by noise, bins of 0.05
    # Where faults were put in on purpose: how well the threshold finds them, over all and by kind.
    injected: dict[str, Any] | None = None


def write(work: Work) -> Report:
    """Writes both files into the job's folder. Raises ValueError before the first score."""
    theta = outcome.threshold(work)
    statuses, histogram = collections.Counter[str](), [0] * _BINS
    noisy, faults = 0, collections.Counter[tuple[str, bool]]()
    samples = {status: _Sample() for status in _SHOWN}
    for final in finals(work, theta):
        statuses[final.status] += 1
        if final.noise is not None:
            histogram[min(_BINS - 1, int(final.noise * _BINS))] += 1
            noisy += final.noise > theta
            if isinstance(work.translator, GeneratedTranslator):
                faults[work.translator.fault(final.caption), final.noise > theta] += 1
        if final.status in samples:
            samples[final.status].add(final)
    roles = ("translator", "scorer", "rewriter")
    report = Report(
        target=work.target,
        backends={role: work.config[role] for role in roles},
        theta=theta,
        captions=sum(statuses.values()),
        clean=sum(histogram) - noisy,
        noisy=noisy,
        statuses={status: statuses[status] for status in outcome.STATUSES},
        failures={s: open_failures(work.journal(s)) for s in ("translate", "score", "rewrite")},
        histogram=histogram,
        injected=_found(faults) if faults else None,
    )
    text = json.dumps(dataclasses.asdict(report), ensure_ascii=False, indent=2)
    _replace(work.folder / "ldat_report.json", text + "\n")
    _replace(work.folder / "report.html", _page(report, samples))
    return report


def finals(work: Work, theta: float) -> Iterator[Final]:
    """What became of every caption, in the order of the source."""
    with outcome.Finals(work, theta) as look_up:
        yield from (look_up(caption) for caption in work.source)


class _Sample:
    """A few of many, the same ones at every call: those whose hash is the least."""

    def __init__(self):
        self._kept: list[tuple[int, str, Final]] = []

    def add(self, final: Final) -> None:
        name = f"{final.caption.image}/{final.caption.text}"
        rank = int(hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:12], 16)
        if len(self._kept) < _SAMPLES:
            heapq.heappush(self._kept, (-rank, name, final))
        elif -rank > self._kept[0][0]:
            heapq.heapreplace(self._kept, (-rank, name, final))

    def __iter__(self) -> Iterator[Final]:
        return (final for _, _, final in sorted(self._kept, key=lambda kept: -kept[0]))


def _found(faults: collections.Counter[tuple[str, bool]]) -> dict[str, Any]:
    """Recall by kind of fault, and precision and recall over all."""
    kinds = sorted({kind for kind, _ in faults if kind})
    hits = {kind: faults[kind, True] for kind in kinds}
    totals = {kind: hits[kind] + faults[kind, False] for kind in kinds}
    flagged = sum(hits.values()) + faults["", True]
    return {
        "captions": sum(totals.values()),
        "precision": round(sum(hits.values()) / flagged, 4) if flagged else None,
        "recall": round(sum(hits.values()) / max(sum(totals.values()), 1), 4),
        "recall_by_kind": {kind: round(hits[kind] / totals[kind], 4) for kind in kinds},
    }


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 1180px; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; }} th, td {{ padding: .25em .8em; text-align: left;
       border-bottom: 1px solid #eee; vertical-align: top; overflow-wrap: anywhere; }}
del {{ color: #a33; }} .noisy {{ fill: #c55; }} .clean {{ fill: #48a; }} text {{ font-size: 11px; }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


def page(title: str, body: str) -> str:
    """An HTML page; the title is escaped here, the body is HTML."""
    return _PAGE.format(title=html.escape(title), body=body)


def table(head: list[str], rows: list[list[str]]) -> str:
    """An HTML table of cells that are HTML."""
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _page(report: Report, samples: dict[str, _Sample]) -> str:
    counts = [[name, str(number)] for name, number in report.statuses.items()]
    counts += [[f"{stage}: failed", str(n)] for stage, n in report.failures.items() if n]
    parts = [
        f"<p>Noise above the threshold {report.theta:.2f}: {report.noisy} of "
        f"{report.clean + report.noisy} translations.</p>",
        _histogram(report),
        table(["captions", str(report.captions)], counts),
    ]
    if report.injected:
        parts.append(f"<h2>Faults put in</h2><pre>{json.dumps(report.injected, indent=2)}</pre>")
    for status, sample in samples.items():
        rows = [_sample_row(final) for final in sample]
        if rows:
            parts += [f"<h2>{status}</h2>", table(["noise", "image", "source", "text"], rows)]
    return page(f"Captions in {report.target}", "\n".join(parts))


def _sample_row(final: Final) -> list[str]:
    text = html.escape(final.text)
    if final.first and final.first != final.text:
        text = f"<del>{html.escape(final.first)}</del><br>{text}"
    noise = "" if final.noise is None else f"{final.noise:.3f}"
    return [noise, html.escape(final.caption.image), html.escape(final.caption.text), text]


def _histogram(report: Report) -> str:
    """An SVG: captions by noise, in two colours around the threshold."""
    most, bars = max([1, *report.histogram]), []
    for place, number in enumerate(report.histogram):
        height = round(120 * number / most, 1)
        colour = "noisy" if (place + 0.5) / _BINS > report.theta else "clean"
        bars.append(
            f'<rect class="{colour}" x="{place * 30}" y="{140 - height}" width="28" '
            f'height="{height}"><title>{number}</title></rect>'
            f'<text x="{place * 30}" y="155">{place / _BINS:.2f}</text>'
        )
    return f'<svg viewBox="0 0 600 160" width="600" role="img">{"".join(bars)}</svg>'


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
