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


def select(evaluations: list[tuple[int, Scores]], split: str) -> tuple[int, Scores]:
    """The evaluation of the best text-to-image rank-1 on `split`; the earliest of equals."""
    return max(evaluations, key=lambda e: (e[1][split]["t2i"]["R1"], -e[0]))


def summarise(evaluations: list[tuple[int, Scores]], config: Any, selected_on: str) -> dict:
    """What `results.json` holds.

    `split`, `step`, `selected_on`, `t2i`, `i2t` and `config_hash` describe the test split (the
    first split, where there is no test) at the evaluation with the best rank-1 on `selected_on`;
    `selections` lists what each split would have selected, and the last evaluation; `untrained`
    is the evaluation before the first step.
    """
    trained = [e for e in evaluations if e[0] > 0] or evaluations
    splits = list(trained[-1][1])
    report_on = "test" if "test" in splits else splits[0]

    def block(evaluation: tuple[int, Scores], selected_on: str) -> dict:
        step, scores = evaluation
        return {"split": report_on, "step": step, "selected_on": selected_on} | scores[report_on]

    chosen = select(trained, selected_on) if selected_on in splits else trained[-1]
    summary = block(chosen, selected_on) | {"config_hash": config_hash(config)}
    if len(evaluations) > 1:
        summary["selections"] = [block(select(trained, s), s) for s in splits]
        summary["selections"].append(block(trained[-1], "last epoch"))
    if trained is not evaluations and evaluations[0][0] == 0:
        summary["untrained"] = block(evaluations[0], "untrained")
    return summary


def write_results(workdir: str | Path, config: Any) -> dict:
    """Summarises a run's evaluations into its `results.json`."""
    summary = summarise(read_evaluations(workdir), config, config.eval.select_on)
    save(workdir, summary)
    return summary


def save(workdir: str | Path, summary: dict) -> None:
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "results.json").write_text(json.dumps(summary, indent=2) + "\n")


def table(summary: dict) -> str:
    """A text table of a summary: one row per selection, both directions."""
    metrics = list(summary["t2i"])
    rows = [summary] if "selections" not in summary else summary["selections"]
    rows = [summary["untrained"], *rows] if "untrained" in summary else rows
    lines = [f"{'':24}{'text to image':^{8 * len(metrics)}}   {'image to text':^{8 * len(metrics)}}"]
    head = "".join(f"{m:>8}" for m in metrics)
    lines.append(f"{summary['split'] + ' split':24}{head}   {head}")
    for row in rows:
        names = {"untrained": "untrained", "last epoch": "last epoch", "given": "given weights"}
        name = names.get(row["selected_on"], f"best {row['selected_on']} rank-1")
        label = f"{name} (step {row['step']})"
        values = ["".join(f"{row[d][m]:8.2f}" for m in metrics) for d in ("t2i", "i2t")]
        lines.append(f"{label:24}{values[0]}   {values[1]}")
    if summary["selected_on"] == "test":
        lines.append("selected on the test split, as the papers do; use eval.select_on=val for new work")
    return "\n".join(lines)
