"""RDE's confident consensus division: which pairs of the train split are taken for clean.

Before every epoch the losses of all pairs, by each of the two embeddings, are divided by a mixture
of two normal distributions: a pair of the lower one is clean. Where both embeddings agree, so it
is; where they do not, a coin decides. Host code in float64, a pure function of the losses.

Source: Qin et al., CVPR 2024, section 3.3; processor/processor.py in the release, which calls
scikit-learn's GaussianMixture. That stops after a few rounds of EM, far from the fit of maximum
likelihood, so the rounds are counted here exactly as there.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tipr_jax.batch import Column, Values
from tipr_jax.models.rde.config import Config

CLEAN = "pair_clean"  # float32 [N]: 1 for a pair taken for clean, else 0
PROBABILITY = "pair_probability"  # float32 [N,2]: of being clean, by BGE and by TSE


class Rounds(NamedTuple):
    """When EM stops, and what is added to a variance."""

    most: int
    tolerance: float
    variance_floor: float


ROUNDS = {"loose": Rounds(10, 1e-2, 5e-4), "tight": Rounds(100, 1e-4, 1e-6)}


class Mixture(NamedTuple):
    """Two normal distributions, the one of the lower mean first; each field float64 [2]."""

    weight: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


def arrays(config: Config) -> dict[str, Column]:
    """What is known of each pair; before the first division all are clean."""
    del config
    return {
        CLEAN: Column((), np.float32, Values.NUMBER, padding=1),
        PROBABILITY: Column((2,), np.float32, Values.NUMBER, padding=1),
    }


def divide(
    losses: Mapping[str, np.ndarray], epoch: int, seed: int, config: Config
) -> dict[str, np.ndarray]:
    """losses {"bge", "tse"}: float32 [N] -> the `arrays`.

    Every pair has a coin, so that one pair that changes sides changes no other pair's coin (the
    release throws one for each uncertain pair, in order).

    Raises:
      ValueError: a loss that is not finite.
    """
    count = len(losses["bge"])
    if config.division == "none":
        return {CLEAN: np.ones(count, np.float32), PROBABILITY: np.ones((count, 2), np.float32)}
    for name, values in losses.items():
        if wrong := np.count_nonzero(~np.isfinite(values)):
            raise ValueError(
                f"before epoch {epoch + 1}, {wrong} of {count} pairs have a {name} loss that is "
                "not finite; use a smaller --config.optimizer.learning_rate, or a larger "
                "--config.model.tau"
            )
    rounds = ROUNDS[config.division]
    (p_bge, bge), (p_tse, tse) = (divide_one(losses[name], rounds) for name in ("bge", "tse"))
    coins = np.random.default_rng([seed, epoch]).integers(0, 2, count)
    return {
        CLEAN: consensus(bge, tse, coins).astype(np.float32),
        PROBABILITY: np.stack([p_bge, p_tse], axis=1).astype(np.float32),
    }


def consensus(a: np.ndarray, b: np.ndarray, coins: np.ndarray) -> np.ndarray:
    """bool [N] of two opinions, and of a coin where they disagree."""
    return np.where(a == b, a, coins.astype(bool))


def divide_one(losses: np.ndarray, rounds: Rounds) -> tuple[np.ndarray, np.ndarray]:
    """losses float32 [N] -> (posterior of the lower component float64 [N], clean bool [N]).

    If all losses are equal, all pairs are clean (scikit-learn fails there).
    """
    scaled = rescale(losses)
    if scaled is None:
        return np.ones(len(losses)), np.ones(len(losses), bool)
    probability = posterior(fit(scaled, lower_cluster(scaled), rounds)[0], scaled)
    return probability, is_clean(probability)


def rescale(losses: np.ndarray) -> np.ndarray | None:
    """(x - min) / (max - min) in float32, as float64 [N]; None if all are equal."""
    losses = losses.astype(np.float32)
    low, high = losses.min(), losses.max()
    return ((losses - low) / (high - low)).astype(np.float64) if high > low else None


def lower_cluster(x: np.ndarray) -> np.ndarray:
    """bool [N]: the lower of two clusters by k-means, whose centres begin at minimum and maximum.

    scikit-learn begins at random pairs; in one dimension it nearly always ends at the same cut.
    """
    low, centres = None, (x.min(), x.max())
    while True:
        new = np.abs(x - centres[0]) <= np.abs(x - centres[1])
        if low is not None and np.array_equal(new, low):
            return low
        low, centres = new, (x[new].mean(), x[~new].mean())


def fit(x: np.ndarray, low: np.ndarray, rounds: Rounds) -> tuple[Mixture, int]:
    """EM from a hard division of x float64 [N], low bool [N] -> (mixture, rounds it took)."""
    mixture = _maximise(x, np.stack([low, ~low]).astype(np.float64), rounds.variance_floor)
    # After a start from clusters scikit-learn divides by the number of samples, later by the sum.
    mixture = mixture._replace(weight=mixture.weight / len(x))
    bound, number, change = -np.inf, 0, np.inf
    while number < rounds.most and change >= rounds.tolerance:
        log_joint = _log_joint(mixture, x)
        log_likelihood = np.logaddexp(*log_joint)
        share = np.exp(log_joint - log_likelihood)
        mixture = _maximise(x, share, rounds.variance_floor)
        mixture = mixture._replace(weight=mixture.weight / mixture.weight.sum())
        change = abs(log_likelihood.mean() - bound)
        bound, number = log_likelihood.mean(), number + 1
    order = np.argsort(mixture.mean)
    return Mixture(*(values[order] for values in mixture)), number


def _maximise(x: np.ndarray, share: np.ndarray, variance_floor: float) -> Mixture:
    """share float64 [2,N] of each component in each sample -> the mixture; weights are counts."""
    count = share.sum(axis=1) + 10 * np.finfo(np.float64).eps
    mean = share @ x / count
    variance = np.sum(share * (x - mean[:, None]) ** 2, axis=1) / count + variance_floor
    return Mixture(count, mean, variance)


def _log_joint(mixture: Mixture, x: np.ndarray) -> np.ndarray:
    """log(weight * density) of x float64 [N] in each component: [2,N]."""
    weight, mean, variance = (values[:, None] for values in mixture)
    return np.log(weight) - (np.log(2 * np.pi * variance) + (x - mean) ** 2 / variance) / 2


def posterior(mixture: Mixture, x: np.ndarray) -> np.ndarray:
    """float64 [N]: the probability that a sample is of the lower component."""
    log_joint = _log_joint(mixture, x)
    return np.exp(log_joint[0] - np.logaddexp(*log_joint))


def is_clean(probability: np.ndarray) -> np.ndarray:
    """bool [N]: above 0.5; if all are, above the lowest hundredth, so that some pairs are noisy."""
    threshold = 0.5
    if probability.min() > threshold:
        threshold = np.sort(probability)[len(probability) // 100]
    return probability > threshold
