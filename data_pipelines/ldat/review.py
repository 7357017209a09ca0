"""A sheet in which a person corrects a split, and the way back from it.

The authors checked their test splits by hand. `review` writes review_{split}.csv, for a
spreadsheet, and review_{split}.html with the images, for the eye. What stands in the column
`corrected` of the CSV counts from then on before every other text; empty cells leave the text as it
is.
"""

import csv
import html
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.ldat import outcome, report
from data_pipelines.ldat.journal import Journal, Lines
from data_pipelines.ldat.outcome import Final
from data_pipelines.ldat.work import Work

_COLUMNS: tuple[str, ...] = (
    "key",
    "image",
    "noise",
    "status",
    "source",
    "translation",
    "corrected",
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run


def write_sheet(work: Work) -> tuple[Path, Path, int]:
    """Writes the sheet of --config.review.split; (CSV, HTML, rows), the noisiest first.

    Raises:
      ValueError: the job has no such split.
    """
    split = _split(work)
    rows = sorted(_finals(work, split), key=lambda f: -1.0 if f.noise is None else -f.noise)
    sheet, page = (work.folder / f"review_{split}.{kind}" for kind in ("csv", "html"))
    with open(sheet, "w", encoding="utf-8-sig", newline="") as file:  # Excel asks for the mark
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(_row(work, final) for final in rows)
    images = os.path.relpath(work.source.images, work.folder)
    cells = [
        [
            f'<img src="{html.escape(f"{images}/{f.caption.image}")}" height="160" loading="lazy">',
            f"<b>{f.status}</b><br>{html.escape(f.caption.text)}<br>{html.escape(f.text)}",
        ]
        for f in rows
    ]
    page.write_text(
        report.page(f"{split}: {work.target}", report.table(["image", "captions"], cells)),
        encoding="utf-8",
    )
    return sheet, page, len(rows)


def read_sheet(work: Work, path: Path) -> int:
    """Takes over the corrections of a sheet; how many are new.

    Raises:
      ValueError: no such file, no table with key and corrected, or a row of another data set.
    """
    split = _split(work)
    known = {work.review_key(caption) for caption in _captions(work, split)}
    corrections = {}
    for number, row in _rows(path):
        text = (row["corrected"] or "").strip()
        key = (row["key"] or "").strip()
        if text and key not in known:
            raise ValueError(
                f"{path}: line {number}: its key is that of no caption of the {split} split; is "
                "this the sheet of another split or language?"
            )
        if text:
            corrections[key] = text
    journal = work.journal("review")
    with Lines(journal) as before:
        new = {
            key: text
            for key, text in corrections.items()
            if (before.get(key) or {"text": None})["text"] != text
        }
    with Journal(journal) as file:
        file.append({"key": key, "text": text} for key, text in new.items())
    return len(new)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of a sheet as spreadsheets save it: with commas, semicolons or tabs."""
    if not path.is_file():
        raise ValueError(f"--config.review.read={path}: no such file; expected a corrected sheet")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            delimiter = max(",;\t", key=first.count)
            file.seek(0)
            reader = csv.DictReader(file, delimiter=delimiter)
            if not {"key", "corrected"} <= set(reader.fieldnames or ()):
                found = first.strip()[:80]
                raise ValueError(f"{path}: expected the columns key and corrected, found {found!r}")
            for row in reader:
                yield reader.line_num, row
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not encoded in UTF-8; save it as CSV UTF-8") from None


def _row(work: Work, final: Final) -> dict[str, str]:
    noise = "" if final.noise is None else f"{final.noise:.3f}"
    return {
        "key": work.review_key(final.caption),
        "image": _harmless(final.caption.image),
        "noise": noise,
        "status": final.status,
        "source": _harmless(final.caption.text),
        "translation": _harmless(final.text),
        "corrected": "",
    }


def _harmless(text: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _finals(work: Work, split: str) -> Iterator[Final]:
    theta = outcome.threshold(work)
    with outcome.Finals(work, theta) as finals:
        yield from (finals(caption) for caption in _captions(work, split))


def _captions(work: Work, split: str):
    for entry in work.source.entries(split):
        yield from (c for c in work.source.captions(split, entry) if c.text.strip())


def _split(work: Work) -> str:
    split = work.config.review.split
    if split not in work.source.files:
        raise ValueError(
            f"--config.review.split={split}: the job has {', '.join(work.source.files)}"
        )
    return split
