#!/usr/bin/env python
"""Trains a method with parts switched on and off, several seeds each, and prints one table.

  python scripts/ablation.py ivt                          # MLA x BMM, 3 seeds, generated data
  python scripts/ablation.py ivt --seeds=5 --config.schedule.num_epochs=10

Every run is `configs/METHOD.py:quickstart` with the switches of the row, below --workdir; a rerun
continues. The rows of a seed share its warm start. Options that begin with --config. hold for all
runs. The table gives mean and standard deviation over the seeds: with few seeds, differences within
the spread mean nothing.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
METRICS = ("R1", "R5", "mAP")

# method -> part of the paper -> on and off, as config flags.
SWITCHES = {
    "ivt": {
        "MLA": {"on": {}, "off": {"model.levels": "('sentence',)"}},
        "BMM": {"on": {}, "off": {"model.mask": "none"}},
    },
}


def train(method: str, workdir: Path, flags: dict[str, str], extra: list[str]) -> dict[str, float]:
    """One run to its end; its text-to-image metrics at the last epoch, in percent."""
    command = [sys.executable, "-m", "tipr_jax.main", f"--config=configs/{method}.py:quickstart"]
    command += [f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in flags.items()), *extra]
    if code := subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with {code}, see above")
    return json.loads((workdir / "results.json").read_text())["others"]["last epoch"]["t2i"]


def mean_and_spread(values: list[float]) -> str:
    """Mean and standard deviation over the seeds."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):7.2f} ± {spread:5.2f}"


def line(values: dict[str, str], results: list[dict[str, float]]) -> str:
    cells = [mean_and_spread([result[metric] for result in results]) for metric in METRICS]
    return "".join(f"{value:>6}" for value in values.values()) + "   " + "  ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", choices=sorted(SWITCHES))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row (default: 3)")
    parser.add_argument("--workdir", type=Path, help="default: runs/ablation_METHOD")
    args, extra = parser.parse_known_args()
    if args.seeds < 1 or any(option.startswith("--config.seed=") for option in extra):
        parser.error("--seeds=N, at least 1, runs the seeds 1 to N")
    if wrong := [option for option in extra if not option.startswith("--config.")]:
        parser.error(f"unknown option {wrong[0]}")
    switches = SWITCHES[args.method]
    workdir = (args.workdir or ROOT / "runs" / f"ablation_{args.method}").absolute()
    columns = "  ".join(f"{metric:>15}" for metric in METRICS)
    lines = ["".join(f"{part:>6}" for part in switches) + "   " + columns]
    warm_start: dict[int, Path] = {}  # of each seed
    for choice in itertools.product(*(states for states in switches.values())):
        values = dict(zip(switches, choice, strict=True))
        name = "_".join(f"{part}_{value}" for part, value in values.items()).lower()
        results = []
        for seed in range(1, args.seeds + 1):
            flags = {"seed": str(seed)}
            for part, value in values.items():
                flags |= switches[part][value]
            if seed in warm_start:
                flags["init_from"] = str(warm_start[seed])
            print(f"{name}, seed {seed} ...", file=sys.stderr, flush=True)
            run = workdir / name / f"seed_{seed}"
            results.append(train(args.method, run, flags, extra))
            if (run / "warm_start").is_dir():
                warm_start[seed] = run / "warm_start"
        lines.append(line(values, results))
    print(f"{args.method}, generated data, last epoch, text to image, {args.seeds} seeds")
    print("\n".join(lines))


if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()
    main()
