"""Selecting a run's numbers: `results.json` from the evaluations in `metrics.jsonl`.

An evaluation is a row whose keys are "eval/<split>/<direction>/<metric>", e.g. "eval/test/t2i/R1".
"""

import json
from pathlib import Path
from typing import Any

from tipr_jax.experiment import config_hash

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


def selection_score(scores: dict[str, dict[str, float]], select_by: str) -> float:
    """What a checkpoint is selected by: the mean of text-to-image metrics, as in "R1" or "R1+mAP".

    Raises:
      ValueError: an unknown metric.
    """
    try:
        values = [scores["t2i"][metric] for metric in select_by.split("+")]
    except KeyError as error:
        raise ValueError(
            f"eval.select_by is {select_by!r}, expected metrics joined by +, "
            f"of {list(scores['t2i'])}"
        ) from error
    return sum(values) / len(values)


def select(evaluations: list[tuple[int, Scores]], split: str, select_by: str) -> tuple[int, Scores]:
    """The evaluation with the best `selection_score` on `split`; the earliest of equals."""
    known = [e for e in evaluations if split in e[1]]
    return max(known, key=lambda e: (selection_score(e[1][split], select_by), -e[0]))


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
    """
    trained = [e for e in evaluations if e[0] > 0] or evaluations
    splits = list(trained[-1][1])
    report_on = "test" if "test" in splits else splits[0]

    def block(evaluation: tuple[int, Scores]) -> dict:
        step, scores = evaluation
        return {"split": report_on, "step": step} | scores[report_on]

    by = config.eval.select_by
    chosen = select(trained, selected_on, by) if selected_on in splits else trained[-1]
    summary = block(chosen) | {"selected_on": selected_on, "config_hash": config_hash(config)}
    summary["gallery"] = config.eval.gallery
    others = {}
    if untrained:
        others["untrained"] = block(untrained)
    if len(trained) < len(evaluations):
        others["start" if config.init_from else "untrained"] = block(evaluations[0])
        others |= {f"best on {s}": block(select(trained, s, by)) for s in splits}
        others["last epoch"] = block(trained[-1])
    return summary | {"others": others}


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
    """A text table of a summary: one row per set of weights, both directions, in percent."""
    metrics = {name: max(8, len(name) + 2) for name in summary["t2i"]}  # column widths
    width = sum(metrics.values())
    head = "".join(f"{m:>{n}}" for m, n in metrics.items())
    lines = [
        f"{'':26}{'text to image':^{width}}   {'image to text':^{width}}",
        f"{summary['split'] + ' split, percent':26}{head}   {head}",
    ]
    rows = summary["others"] or {"given weights": summary}
    for name, row in rows.items():
        label = f"{name} (step {row['step']})"
        values = [
            "".join(f"{row[d][m]:{n}.2f}" for m, n in metrics.items()) for d in ("t2i", "i2t")
        ]
        lines.append(f"{label:26}{values[0]}   {values[1]}")
    if summary["gallery"] != "unique":
        lines.append(f"The gallery is not that of the papers' tables: {summary['gallery']}")
    if summary["selected_on"] == "test":
        lines.append(
            "The epoch is selected on test, as in the papers; new work: eval.select_on=val"
        )
    return "\n".join(lines)
