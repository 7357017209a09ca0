"""Selecting a run's numbers: `results.json` from the evaluations in `metrics.jsonl`.

An evaluation is a row whose keys are "eval/<split>/<direction>/<metric>", e.g. "eval/test/t2i/R1".
Directions are t2i, i2t and, where a matching head re-ranks, t2i_rerank. Splits of a multilingual
run are "test" (captions in the source language), "test_zh" (the same images, Chinese captions), ...
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tipr_jax.experiment import config_hash
from tipr_jax.languages import languages_of

Scores = dict[str, dict[str, dict[str, float]]]  # split -> direction -> metric -> percent


def evaluation_row(scores: Scores) -> dict[str, float]:
    """The flat form in which an evaluation is logged."""
    return {
        f"eval/{split}/{direction}/{metric}": value
        for split, directions in scores.items()
        for direction, metrics in directions.items()
        for metric, value in metrics.items()
    }


def read_evaluations(workdir: str | Path) -> list[tuple[int, Scores]]:
    """(step, scores) of every evaluation of a run, in order."""
    out = []
    for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        scores: Scores = {}
        for key, value in row.items():
            if key.startswith("eval/"):
                _, split, direction, metric = key.split("/")
                scores.setdefault(split, {}).setdefault(direction, {})[metric] = value
        if scores:
            out.append((row["step"], scores))
    return out


def chosen_by(scores: dict[str, dict[str, float]]) -> dict[str, float]:
    """The metrics of the final text-to-image ranking of a split: re-ranked, if it was."""
    return scores.get("t2i_rerank", scores["t2i"])


def selection_score(scores: dict[str, dict[str, float]], select_by: str) -> float:
    """What a checkpoint is selected by: the mean of text-to-image metrics, as in "R1" or "R1+mAP".

    Raises:
      ValueError: an unknown metric.
    """
    metrics = chosen_by(scores)
    try:
        values = [metrics[metric] for metric in select_by.split("+")]
    except KeyError as error:
        raise ValueError(
            f"eval.select_by is {select_by!r}, expected metrics joined by +, of {list(metrics)}"
        ) from error
    return sum(values) / len(values)


def select(evaluations: list[tuple[int, Scores]], split: str, select_by: str) -> tuple[int, Scores]:
    """The evaluation with the best `selection_score` on `split`; the earliest of equals.

    Re-ranked scores count only if all evaluations have them: a resumed run may have changed that.
    """
    known = [(step, scores[split]) for step, scores in evaluations if split in scores]
    if not all("t2i_rerank" in scores for _, scores in known):
        known = [(step, {"t2i": scores["t2i"]}) for step, scores in known]
    best = max(known, key=lambda e: (selection_score(e[1], select_by), -e[0]))[0]
    return next(e for e in evaluations if e[0] == best and split in e[1])


def summarise(
    evaluations: list[tuple[int, Scores]],
    config: Any,
    selected_on: str,
    untrained: tuple[int, Scores] | None = None,
) -> dict:
    """What `results.json` holds.

    `split`, `step`, `selected_on`, `t2i`, `i2t` and `config_hash` describe the test split (the
    first split, where there is no test) at the evaluation with the best score on `selected_on`.
    `others` has the same numbers for random weights, for the weights training started from, for
    what each split would have selected, and for the last epoch, as far as they are known.
    `languages`, of a multilingual run, has per language the test split in the last epoch and at the
    evaluation with the best score on `selected_on` in that language (the papers select for each).
    """
    trained = [e for e in evaluations if e[0] > 0] or evaluations
    splits = list(trained[-1][1])
    report_on = "test" if "test" in splits else splits[0]

    def block(evaluation: tuple[int, Scores], split: str = report_on) -> dict:
        step, scores = evaluation
        return {"split": split, "step": step} | scores[split]

    by = config.eval.select_by
    chosen = select(trained, selected_on, by) if selected_on in splits else trained[-1]
    summary = block(chosen) | {"selected_on": selected_on, "config_hash": config_hash(config)}
    summary["gallery"] = config.eval.gallery
    others = {}
    if untrained:
        others["untrained"] = block(untrained)
    if len(trained) < len(evaluations):
        others["start" if config.init_from else "untrained"] = block(evaluations[0])
        sources = [s for s in splits if not _language(s)]
        others |= {f"best on {s}": block(select(trained, s, by)) for s in sources}
        others["last epoch"] = block(trained[-1])
    summary["others"] = others
    translated = [s for s in splits if s.partition("_")[0] == report_on and _language(s)]
    if translated:
        source = languages_of(config.data)[0]
        summary["languages"] = {
            _language(s) or source: {
                "best": block(select(trained, s.replace(report_on, selected_on), by), s)
                if selected_on in splits
                else block(trained[-1], s),
                "last epoch": block(trained[-1], s),
            }
            for s in (report_on, *translated)
        }
    return summary


def _language(split: str) -> str:
    """Of the captions, as the split's name tells it: "test_zh" -> "zh", "test" -> ""."""
    return split.partition("_")[2]


def write_results(workdir: str | Path, config: Any) -> dict:
    """Summarises a run's evaluations, and its warm start's first, into its `results.json`."""
    warm_start = Path(workdir) / "warm_start"
    untrained = read_evaluations(warm_start)[0] if warm_start.is_dir() else None
    summary = summarise(read_evaluations(workdir), config, config.eval.select_on, untrained)
    save(workdir, summary)
    return summary


def save(workdir: str | Path, summary: dict) -> None:
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "results.json").write_text(json.dumps(summary, indent=2) + "\n")


def table(summary: dict) -> str:
    """A text table of a summary in percent: one row per set of weights, both directions.

    A second one has a row per language and, if it was measured, the re-ranked direction.
    """
    rows = summary["others"] or {"given weights": summary}
    lines = _lines(summary["split"], rows, ("t2i", "i2t"))
    if summary["gallery"] != "unique":
        lines.append(f"The gallery is not that of the papers' tables: {summary['gallery']}")
    if summary["selected_on"] == "test":
        lines.append(
            "The epoch is selected on test, as in the papers; new work: eval.select_on=val"
        )
    ranked = [d for d in ("t2i", "t2i_rerank") if d in summary]
    if "languages" in summary:
        rows = {
            f"{language} {name}".strip(): row
            for language, chosen in summary["languages"].items()
            for name, row in _distinct(chosen).items()
        }
        lines += ["", *_lines(summary["split"], rows, ranked)]
    elif len(ranked) > 1:
        lines += ["", *_lines(summary["split"], rows, ranked)]
    return "\n".join(lines)


_TITLES = {
    "t2i": "text to image",
    "i2t": "image to text",
    "t2i_rerank": "text to image, re-ranked",
}


def _lines(split: str, rows: dict[str, dict], directions: Sequence[str]) -> list[str]:
    """Two lines of headings, then one per row; those without a direction leave it blank."""
    first = next(iter(rows.values()))
    metrics = {name: max(8, len(name) + 2) for name in first["t2i"]}  # column widths
    width = sum(metrics.values())
    head = "".join(f"{m:>{n}}" for m, n in metrics.items())
    lines = [
        f"{'':26}" + "   ".join(f"{_TITLES[d]:^{width}}" for d in directions),
        f"{split + ' split, percent':26}" + "   ".join(head for _ in directions),
    ]
    for name, row in rows.items():
        values = [
            "".join(f"{row[d][m]:{n}.2f}" for m, n in metrics.items()) if d in row else " " * width
            for d in directions
        ]
        label = f"{name} (step {row['step']})"
        lines.append(f"{label:26}" + "   ".join(values))
    return lines


def _distinct(chosen: dict[str, dict]) -> dict[str, dict]:
    """The rows of a language; one, without a name, where nothing was selected."""
    if chosen["best"]["step"] == chosen["last epoch"]["step"]:
        return {"": chosen["last epoch"]}
    return chosen
