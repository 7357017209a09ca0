#!/usr/bin/env python
"""What wrong captions cost: RDE and IRRA on generated data, of which a share of the pairs is wrong.

  python scripts/noise_table.py                        # 0, 20 and 50 % wrong, 3 seeds
  python scripts/noise_table.py --rates=0,0.8 --seeds=1 --config.schedule.num_epochs=20

All runs begin with the same weights: a contrastive start on the true captions of other people, the
part that CLIP has for the papers. A seed has training people, wrong pairs and random numbers of its
own; few people and many epochs, so that a model can learn wrong pairs by heart. The table gives
text-to-image R@1 and mAP after the last epoch, mean and standard deviation over the seeds; below
it, how well RDE's last division tells wrong pairs from right ones: AUC of its probabilities,
precision and recall of the pairs that it leaves out. A rerun continues. Options that begin with
--config. hold for all runs but the start.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a bare checkout

from ablation import ROOT, mean_and_spread, train

METHODS = ("irra", "rde")
START_IDS, TRAIN_IDS, TEST_IDS = 1500, 100, 100
EPOCHS, RATE = 40, 3e-4
# The share of wrong pairs above which the paper divides so; at this size it is worse than "loose".
TIGHT_ABOVE = 0.4


def start(workdir: Path) -> Path:
    """A run with contrast alone on other people: weights for all others to begin with.

    Its own warm start comes first; 14 epochs in all.
    """
    data = workdir / "start_data"
    generate(data, START_IDS, seed=100)
    flags = {
        "data.root": str(data),
        "model.losses": "('itc',)",
        "model.learn_temperature": "True",
        "optimizer.learning_rate": "1e-3",
        "schedule.num_epochs": "6",
        "schedule.warmup_epochs": "1",
        "eval.every_epochs": "6",
    }
    run = workdir / "start"
    train("irra", run, flags, [])
    return run


def generate(root: Path, train_ids: int, seed: int) -> None:
    from data_pipelines.synth_pedes.generate import generate

    generate(root, "cuhk_pedes", train_ids=train_ids, val_ids=10, test_ids=TEST_IDS, seed=seed)


def noisy(workdir: Path, rate: float, seed: int) -> Path:
    """The root of a data set in which a share of the training pairs is wrong."""
    from data_pipelines import noise

    clean, root = workdir / f"data_{seed}", workdir / f"data_{seed}_{round(100 * rate)}"
    generate(clean, TRAIN_IDS, seed=seed)
    if not root.exists():
        noise.write_copy("cuhk_pedes", clean, root, None, rate, seed)
    return root


def division(run: Path, data: Path) -> dict[str, float]:
    """How well the last division of a run tells wrong pairs from right ones, in percent."""
    import orbax.checkpoint as ocp

    from data_pipelines.noise import INDEX
    from tipr_jax.gallery.calibration import auc
    from tipr_jax.models.rde.division import CLEAN, PROBABILITY

    index = np.load(next(data.glob(f"*/{INDEX}")))
    wrong = index != np.arange(len(index))
    last = max((run / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    pairs = ocp.PyTreeCheckpointer().restore(last / "default")["pairs"]
    left_out = np.asarray(pairs[CLEAN]) == 0
    found = np.count_nonzero(left_out & wrong)
    clean = np.asarray(pairs[PROBABILITY]).mean(axis=1)
    return {
        "AUC": 100 * auc(clean[~wrong], clean[wrong]),
        "precision": 100 * found / max(1, np.count_nonzero(left_out)),
        "recall": 100 * found / max(1, np.count_nonzero(wrong)),
    }


def table(rates: list[float], seeds: int, workdir: Path, extra: list[str]) -> list[str]:
    """Trains everything; the lines of the table."""
    scores: dict[tuple[str, float], list[dict[str, float]]] = {}
    divisions: dict[float, list[dict[str, float]]] = {}
    first = start(workdir)
    for seed in range(1, seeds + 1):
        for rate in rates:
            data = noisy(workdir, rate, seed)
            for method in METHODS:
                print(f"{method}, {rate:.0%} wrong, seed {seed} ...", file=sys.stderr, flush=True)
                run = workdir / f"{method}_{round(100 * rate)}_{seed}"
                flags = {
                    "seed": str(seed),
                    "data.root": str(data),
                    "init_from": str(first),
                    "optimizer.learning_rate": str(RATE),
                    "schedule.num_epochs": str(EPOCHS),
                    "eval.every_epochs": "10",
                }
                if method == "rde" and rate > TIGHT_ABOVE:
                    flags["model.division"] = "tight"
                last = train(method, run, flags, extra)
                scores.setdefault((method, rate), []).append(last["test"]["t2i"])
                if method == "rde" and rate > 0:
                    divisions.setdefault(rate, []).append(division(run, data))
    lines = [f"{'':>12}" + "".join(f"{f'{m} R1':>18}{f'{m} mAP':>18}" for m in METHODS)]
    for rate in rates:
        cells = [
            f"{mean_and_spread([result[metric] for result in scores[method, rate]]):>18}"
            for method in METHODS
            for metric in ("R1", "mAP")
        ]
        lines.append(f"{rate:>6.0%} wrong" + "".join(cells))
    for rate, found in divisions.items():
        parts = [f"{name} {mean_and_spread([one[name] for one in found])}" for name in found[0]]
        lines.append(f"{rate:>6.0%} wrong, the last division: {', '.join(parts)}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rates", default="0,0.2,0.5", help="shares of wrong pairs, 0 to 1 (default: 0,0.2,0.5)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind (default: 3)")
    parser.add_argument(
        "--workdir", type=Path, default=ROOT / "runs" / "noise", help="default: runs/noise"
    )
    args, extra = parser.parse_known_args()
    if wrong := [option for option in extra if not option.startswith("--config.")]:
        parser.error(f"unknown option {wrong[0]}")
    try:
        rates = [float(rate) for rate in args.rates.split(",")]
    except ValueError:
        parser.error(f"--rates={args.rates}, expected numbers with commas between them")
    if args.seeds < 1 or not all(0 <= rate <= 1 for rate in rates):
        parser.error("expected rates between 0 and 1 and at least one seed")
    lines = table(rates, args.seeds, args.workdir.absolute(), extra)
    print(f"generated data, last epoch, text to image, percent, {args.seeds} seeds")
    print("\n".join(lines))


if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()
    main()
