"""The numbers of `results.json` as rows, and as a table of text; the report draws the same rows."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tipr_jax.results import Block, Directions

TITLES = {
    "t2i": "text to image",
    "t2i_rerank": "text to image, re-ranked",
    "t2i_mix": "re-ranked with the cosine",
    "i2t": "image to text",
}


class Row(NamedTuple):
    """One set of weights on one split, with all the names that it goes by."""

    name: str
    split: str
    step: int
    directions: Directions


def rows(summary: Mapping[str, Any]) -> list[Row]:
    """One row per set of weights in `others`, or of the given weights."""
    return _merged(_weights(summary))


def language_rows(summary: Mapping[str, Any]) -> list[Row]:
    """Per language one row for the best weights and one for the last, or one for both."""
    return _merged(_languages(summary))


def all_rows(summary: Mapping[str, Any]) -> list[Row]:
    """`rows` and `language_rows`; what is in both is one row, with its names in both."""
    return _merged(_weights(summary) | _languages(summary))


def _weights(summary: Mapping[str, Any]) -> dict[str, Block]:
    return dict(summary.get("others") or {"given weights": dict(summary)})


def _languages(summary: Mapping[str, Any]) -> dict[str, Block]:
    named: dict[str, Block] = {}
    for language, blocks in summary.get("languages", {}).items():
        if blocks["best"]["step"] == blocks["last epoch"]["step"]:
            named[language] = blocks["best"]
        else:
            named |= {f"{language} {name}": block for name, block in blocks.items()}
    return named


def _merged(named: Mapping[str, Block]) -> list[Row]:
    """Rows in order; blocks of the same weights and split become one, whose names are joined."""
    merged: list[Row] = []
    for name, block in named.items():
        directions = {key: block[key] for key in TITLES if key in block}
        row = Row(name, block["split"], block["step"], directions)
        same = [i for i, other in enumerate(merged) if other[1:] == row[1:]]
        if same:
            merged[same[0]] = row._replace(name=f"{merged[same[0]].name}, {name}")
        else:
            merged.append(row)
    return merged


def notes(summary: Mapping[str, Any]) -> list[str]:
    """What one must know to compare the numbers with others, a sentence each."""
    lines = []
    if summary["gallery"] != "unique":
        lines.append(f"The gallery is not that of the papers' tables: {summary['gallery']}")
    if summary["selected_on"] == "test":
        lines.append(
            "The epoch is selected on test, as in the papers; new work: eval.select_on=val"
        )
    blocks = [summary, *summary.get("languages", {}).values()]
    blocks = [block.get("best", block) for block in blocks]
    weights = {b["split"]: b["t2i_mix"]["weight"] for b in blocks if "t2i_mix" in b}
    if weights:
        shares = ", ".join(f"{split} {weight:.1f}" for split, weight in weights.items())
        lines.append(f"Share of the cosine in the mixed score (published: 0): {shares}")
    return lines


def table(summary: Mapping[str, Any]) -> str:
    """A text table of a summary in percent: one row per set of weights, both directions.

    A second one has a row per language and, if it was measured, the re-ranked direction.
    """
    lines = _lines(rows(summary), ("t2i", "i2t")) + notes(summary)
    in_languages = language_rows(summary)
    ranked = [d for d in ("t2i", "t2i_rerank", "t2i_mix") if d in summary]
    if in_languages or len(ranked) > 1:
        lines += ["", *_lines(in_languages or rows(summary), ranked)]
    return "\n".join(lines)


def _lines(table_rows: Sequence[Row], directions: Sequence[str]) -> list[str]:
    """Two lines of headings, then one per row; a direction that a row lacks stays blank."""
    measured = next(iter(table_rows[0].directions.values()))
    metrics = {name: max(8, len(name) + 2) for name in measured}  # column widths
    labels = [f"{row.name} (step {row.step})" for row in table_rows]
    first, width = max(26, *(len(label) + 1 for label in labels)), sum(metrics.values())
    head = "".join(f"{m:>{n}}" for m, n in metrics.items())
    lines = [
        " " * first + "   ".join(f"{TITLES[d]:^{width}}" for d in directions),
        f"{table_rows[0].split + ' split, percent':{first}}" + "   ".join(head for _ in directions),
    ]
    for label, row in zip(labels, table_rows, strict=True):
        values = [
            "".join(f"{row.directions[d][m]:{n}.2f}" for m, n in metrics.items())
            if d in row.directions
            else " " * width
            for d in directions
        ]
        lines.append(f"{label:{first}}" + "   ".join(values))
    return lines
