#!/usr/bin/env python
"""Trains a method with parts switched on and off, several seeds each, and prints one table.

  python scripts/ablation.py ivt                          # MLA x BMM, 3 seeds, generated data
  python scripts/ablation.py bi_irra                      # its losses; hours on a CPU
  python scripts/ablation.py ivt --seeds=5 --config.schedule.num_epochs=10

Every run is a small variant of the method's config with the changes of the row, below --workdir; a
rerun continues. Options that begin with --config. hold for all runs. The table gives rank-1 and mAP
of the last epoch, text to image, mean and standard deviation over the seeds, in every language and
for both stages of a search where there are two. With few seeds, differences within the spread mean
nothing.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # also from a bare checkout

from tipr_jax import results, run_files

METRICS = ("R1", "mAP")
STAGES = {"t2i": "", "t2i_rerank": " re-ranked"}


class Ablation(NamedTuple):
    """What is compared: rows are the config's flags by their labels, the first is the method."""

    variant: str
    rows: dict[str, dict[str, str]]
    # Whether all seeds begin with one warm start, because it stands for weights that others made;
    # else the rows of a seed share theirs.
    one_start: bool


ABLATIONS = {
    "ivt": Ablation(
        "quickstart",
        {
            "MLA + BMM": {},
            "MLA": {"model.mask": "none"},
            "BMM": {"model.levels": "('sentence',)"},
            "neither": {"model.mask": "none", "model.levels": "('sentence',)"},
        },
        one_start=False,
    ),
    # Table VI of the paper, whose Md-GA is contrast and matching, as the variant has them.
    "bi_irra": Ablation(
        "quickstart_pretrained",
        {
            "Md-GA + MLM + D-MIM": {"model.losses": "('itc', 'itm', 'mlm', 'mim')"},
            "Md-GA + D-MIM": {"model.losses": "('itc', 'itm', 'mim')"},
            "Md-GA + MLM": {"model.losses": "('itc', 'itm', 'mlm')"},
            "Md-GA": {},
            "SDM in place of ITC": {"model.losses": "('sdm', 'itm', 'mlm', 'mim')"},
        },
        one_start=True,
    ),
}


def train(
    method: str, workdir: Path, flags: dict[str, str], extra: list[str], variant: str = "quickstart"
) -> results.Scores:
    """One run to its end; the scores of its last epoch, in percent."""
    command = [sys.executable, "-m", "tipr_jax.main", f"--config=configs/{method}.py:{variant}"]
    command += [f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in flags.items()), *extra]
    if code := subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with {code}, see above")
    return results.read_evaluations(workdir)[-1].scores


def mean_and_spread(values: list[float]) -> str:
    """Mean and standard deviation over the seeds."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):7.2f} ± {spread:5.2f}"


def lines(table: dict[str, list[results.Scores]]) -> list[str]:
    """The table's lines, from the scores of each row's seeds."""
    width = max(map(len, table))
    first = next(iter(table.values()))[0]
    columns = [
        (split, stage)
        for split in first
        for stage in STAGES
        if split.partition("_")[0] == "test" and stage in first[split]
    ]
    names = [f"{s}{STAGES[stage]} {metric}" for s, stage in columns for metric in METRICS]
    out = ["".join([" " * width, *(f"{name:>24}" for name in names)])]
    for label, seeds in table.items():
        cells = [
            mean_and_spread([scores[split][stage][metric] for scores in seeds])
            for split, stage in columns
            for metric in METRICS
        ]
        out.append("".join([f"{label:<{width}}", *(f"{cell:>24}" for cell in cells)]))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", choices=sorted(ABLATIONS))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row (default: 3)")
    parser.add_argument("--workdir", type=Path, help="default: runs/ablation_METHOD")
    args, extra = parser.parse_known_args()
    if args.seeds < 1 or any(option.startswith("--config.seed=") for option in extra):
        parser.error("--seeds=N, at least 1, runs the seeds 1 to N")
    if wrong := [option for option in extra if not option.startswith("--config.")]:
        parser.error(f"unknown option {wrong[0]}")
    ablation = ABLATIONS[args.method]
    workdir = (args.workdir or ROOT / "runs" / f"ablation_{args.method}").absolute()
    table: dict[str, list[results.Scores]] = {label: [] for label in ablation.rows}
    start: dict[int, Path] = {}  # of each seed
    for seed in range(1, args.seeds + 1):
        for label, changes in ablation.rows.items():
            flags = {"seed": str(seed)} | changes
            begins = 1 if ablation.one_start else seed
            if begins in start:
                flags["init_from"] = str(start[begins])
            print(f"{label}, seed {seed} ...", file=sys.stderr, flush=True)
            run = workdir / label.lower().replace(" + ", "_").replace(" ", "_") / f"seed_{seed}"
            table[label].append(train(args.method, run, flags, extra, ablation.variant))
            if (run / run_files.WARM_START).is_dir():
                start[begins] = run / run_files.WARM_START
    print(f"{args.method}, generated data, last epoch, text to image, {args.seeds} seeds")
    print("\n".join(lines(table)))


if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()
    main()
