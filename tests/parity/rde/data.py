"""Around the RDE model: evaluation, exchanged captions and changed words against golden arrays."""

import hashlib
import random

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.noise import caption_index, exchange
from parity.irra.data import compare_metrics
from parity.rde.model import cases_of
from parity.report import Report, absolute
from tipr_jax.metrics import retrieval
from tipr_jax.metrics.unit_vectors import l2_normalise
from tipr_jax.models.rde.model import Embeddings, feature
from tipr_jax.models.rde.objective import change_words
from tipr_jax.text import clip_bpe

MASK = clip_bpe.MASK_ID


def check_metrics(report: Report) -> None:
    """By each embedding and by the mean, from raw features through the vectors of the gallery."""
    golden = report.arrays("eval_metrics.npz")
    for case in cases_of(golden) if golden else ():
        stored = golden.under(f"{case}/")
        ids = stored["q_pids"], stored["g_pids"]
        query, gallery = (
            Embeddings(*(jnp.asarray(stored[f"{name}_{side}"]) for name in Embeddings._fields))
            for side in ("query", "gallery")
        )
        for name in ("bge", "tse", "mean"):
            q, g = (np.asarray(feature(x, name)) for x in (query, gallery))
            scores = l2_normalise(q) @ l2_normalise(g).T
            title, of = f"eval_metrics {case} {name}", golden.under(f"{case}/{name}/")
            one = {"similarity": scores}, {"similarity": of["similarity"]}
            report.compare(f"{title} similarity", *one, absolute(2e-6), "abs 2e-6")
            found = retrieval.metrics_from_ranks(
                retrieval.positive_ranks(scores, *ids), range(1, 11)
            )
            compare_metrics(report, f"{title} text to image", found, of, "")
            total = {"rSum": found["R1"] + found["R5"] + found["R10"]}, {"rSum": of["rSum"]}
            report.compare(f"{title} rSum", *total, absolute(1e-4), "1e-4 percent points")
            match = ids[1][of["indices"]] == ids[0][:, None]
            ranks = retrieval.positive_ranks(scores, *ids).rank
            report.exact(f"{title} ranks", {"positives": (ranks, np.nonzero(match)[1] + 1)})
            back = retrieval.positive_ranks(scores.T, *ids[::-1])
            found = retrieval.metrics_from_ranks(back, range(1, 11))
            compare_metrics(report, f"{title} image to text", found, of, "i2t_")
            if name == "mean":
                selected = {"R1": found_r1(scores, ids)}, {"R1": stored["selection_R1"]}
                report.compare(f"{title} selects", *selected, absolute(1e-4), "1e-4 percent points")


def found_r1(scores: np.ndarray, ids: tuple) -> float:
    return retrieval.metrics_from_ranks(retrieval.positive_ranks(scores, *ids), (1,))["R1"]


def check_noise(report: Report) -> None:
    golden = report.json("noise_index.json")
    if golden is None:
        return
    files = {}
    for row in golden["files"]:
        index = caption_index(row["n"], row["rate"])
        moved = np.flatnonzero(index != np.arange(row["n"]))
        pairs = [[int(i), int(index[i])] for i in moved]
        ours = {
            "moved": len(moved),
            "sha256_int64_le": hashlib.sha256(index.astype("<i8").tobytes()).hexdigest(),
            "first_moved": pairs[: len(row["first_moved"])],
            "last_moved": pairs[-len(row["last_moved"]) :],
        }
        files |= {f"{row['name']} {key}": (value, row[key]) for key, value in ours.items()}
    report.exact("noise_index released files", files)
    toys = {}
    for number, row in enumerate(golden["toy"]):
        index = caption_index(row["n"], row["rate"], row["numpy_seed"])
        entries = [{"split": "train", "captions": [f"caption {i}"]} for i in range(row["n"])]
        captions = [entry["captions"][0] for entry in exchange(entries, index)]
        toys[f"{number} captions"] = (captions, [result[3] for result in row["result"]])
        real = (index == np.arange(row["n"])).astype(int).tolist()
        toys[f"{number} real"] = (real, row["real"])
    report.exact("noise_index toy lists", toys)


def check_text_augmentation(report: Report) -> None:
    golden = report.json("text_aug.json")
    if golden is None:
        return
    pairs = {}
    for number, row in enumerate(golden["deterministic"]):
        ids = np.array(row["input_ids"], np.int32)
        uniform, other, following = official_draws(ids, row["seed"])
        changed = change_words(jnp.asarray(ids[None]), uniform[None], other[None], MASK)[0]
        pairs[f"{number} ids"] = (np.asarray(changed).tolist(), row["output_ids"])
        pairs[f"{number} draws"] = (following, row["next_random"])
    report.exact("text_aug deterministic", pairs)
    check_shares(report, golden["statistics"])


def official_draws(ids: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The random numbers in the order in which the released code takes them, and the one after."""
    rng = random.Random(seed)
    uniform, other = np.ones(len(ids)), np.ones(len(ids), np.int32)
    for position, token in enumerate(ids):
        if 0 < token < MASK:
            uniform[position] = rng.random()
            if 0.6 <= uniform[position] / 0.2 < 0.8:
                other[position] = rng.choice(range(1, MASK))
    return uniform.astype(np.float64), other, rng.random()


def check_shares(report: Report, golden: dict) -> None:
    """Our generator is another one: the shares must agree within five standard deviations."""
    rows, words, word = golden["samples"], golden["words"], golden["word"]
    ids = np.array([clip_bpe.SOT_ID, *[word] * words, clip_bpe.EOT_ID], np.int32)
    uniform_key, word_key = jax.random.split(jax.random.key(0))
    shape = (rows, len(ids))
    other = jax.random.randint(word_key, shape, 1, MASK, jnp.int32)
    uniform = jax.random.uniform(uniform_key, shape)
    changed = np.asarray(change_words(jnp.tile(ids, (rows, 1)), uniform, other, MASK))
    total = rows * words
    left = (changed != 0).sum() - 2 * rows
    ours = {
        "mask": (changed == MASK).sum() / total,
        "kept": (changed == word).sum() / total,
        "removed": 1 - left / total,
    }
    ours["random"] = 1 - sum(ours.values())
    for name, share in ours.items():
        deviation = np.sqrt(share * (1 - share) * 2 / total)
        limit = absolute(5 * deviation), f"5 sigma = {5 * deviation:.1e}"
        report.compare(f"text_aug {name}", {name: share}, {name: golden[name]}, *limit)
