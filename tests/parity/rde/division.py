"""RDE's division of pairs against golden arrays: EM, threshold, consensus."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.rde.model import cases_of
from parity.report import Report, absolute
from tipr_jax.models.rde.config import Config
from tipr_jax.models.rde.division import (
    ROUNDS,
    consensus,
    divide_one,
    fit,
    is_clean,
    posterior,
    rescale,
)

BRANCHES = ("bge", "tse")
PROBABILITY = absolute(5e-5), "abs 5e-5"


def compare_mixtures(
    report: Report,
    title: str,
    losses: Mapping[str, np.ndarray],
    stored: Mapping[str, Any],
    config: Config,
) -> None:
    """EM on stored losses from the stored start, both embeddings; stored: "prob_bge", ...."""
    rounds = ROUNDS[config.division]
    exact, probability, mixtures, scaled = {}, {}, {}, {}
    for name in BRANCHES:
        x = rescale(losses[name])
        mixture, number = fit(x, stored[f"kmeans_low_{name}"], rounds)
        p = posterior(mixture, x)
        scaled[f"norm_{name}"], probability[f"prob_{name}"] = x, p
        mixtures[f"gmm_{name}"] = np.stack(mixture)
        exact[f"n_iter_{name}"] = (number, int(stored[f"n_iter_{name}"]))
        exact[f"pred_{name}"] = (is_clean(p).astype(int), stored[f"pred_{name}"])
    for what, ours, limit, tolerance in (
        ("losses rescaled", scaled, absolute(1e-6), "abs 1e-6"),
        ("probabilities", probability, *PROBABILITY),
        ("mixtures", mixtures, *PROBABILITY),
    ):
        report.compare(f"{title} {what}", ours, {k: stored[k] for k in ours}, limit, tolerance)
    report.exact(f"{title} rounds and opinions", exact)


def check_division(report: Report) -> None:
    golden = report.arrays("ccd.npz")
    if golden is None:
        return
    for case in cases_of(golden):
        of_case = golden.under(f"{case}/")
        config = Config(division="tight" if of_case["tight"] else "loose")
        losses = {name: of_case[f"{name}/loss"] for name in BRANCHES}
        stored = {f"{quantity}_{name}": of_case[f"{name}/{quantity}"] for name in BRANCHES
                  for quantity in ("norm", "kmeans_low", "n_iter", "prob", "pred")}  # fmt: skip
        stored |= {f"gmm_{name}": of_case[f"{name}/final"] for name in BRANCHES}
        compare_mixtures(report, f"ccd {case}", losses, stored, config)
        compare_double(report, case, losses, of_case, config)
        compare_free(report, case, losses, of_case, config)
    splits = sorted({key.split("/")[1] for key in golden if key.startswith("split/")})
    pairs = {
        name: (is_clean(golden[f"split/{name}/prob"]).astype(int), golden[f"split/{name}/pred"])
        for name in splits
    }
    if pairs:
        report.exact("ccd threshold", pairs)


def compare_double(report: Report, case: str, losses: dict, of_case: dict, config: Config) -> None:
    """EM in float64 from the stored start, to the rounding of float64."""
    ours, stored = {}, {}
    for name in BRANCHES:
        x = rescale(losses[name])
        mixture, _ = fit(x, of_case[f"{name}/kmeans_low"], ROUNDS[config.division])
        ours |= {f"{name} prob64": posterior(mixture, x), f"{name} final64": np.stack(mixture)}
        stored |= {f"{name} {key}": of_case[f"{name}/{key}"] for key in ("prob64", "final64")}
    report.compare(f"ccd {case} in float64", ours, stored, absolute(1e-6), "abs 1e-6")


def compare_free(report: Report, case: str, losses: dict, of_case: dict, config: Config) -> None:
    """From our own start: the same opinions, and with the stored coins the same division."""
    ours = {name: divide_one(losses[name], ROUNDS[config.division])[1] for name in BRANCHES}
    pairs = {name: (ours[name].astype(int), of_case[f"{name}/pred"]) for name in BRANCHES}
    coins = np.zeros(len(ours["bge"]), int)
    coins[ours["bge"] != ours["tse"]] = of_case["coins"]
    division = consensus(ours["bge"], ours["tse"], coins).astype(np.float32)
    report.exact(f"ccd {case} division", pairs | {"label_hat": (division, of_case["label_hat"])})
