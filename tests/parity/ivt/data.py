"""Everything around the IVT model against golden arrays: metrics, text levels, sampler."""

import random
from collections import Counter

import numpy as np

from data_pipelines.columns import clauses
from data_pipelines.manifest.cleaning import clean_caption
from data_pipelines.sampler import identity_order
from parity.report import Report, absolute
from tipr_jax.metrics.retrieval import embedding_ranks, gallery_images, metrics_from_ranks

# golden name -> ours. The file also holds one joined attribute list; it does not say of what.
CANDIDATES = {
    "phrase_candidates": clauses.phrase_candidates,
    "cuhk_word_fallback_candidates": clauses.phrase_candidates_with_brackets,
    "icfg_rstp_word_candidates": clauses.clause_candidates,
    "pretrain_pre_caption": clean_caption,
}


def check_metrics(report: Report) -> None:
    """Fractions over all queries, text to image; mAP is the trapezoidal one."""
    golden = report.arrays("metrics.npz")
    if golden is None:
        return
    image, text = golden["feat_img"], golden["feat_txt"]
    for case, ids, gallery in (
        ("cuhk", golden["pids"], "every_second_row"),
        ("icfg", golden["pids"], "unique"),
        ("missing", golden["pids_missing"], "every_second_row"),
    ):
        rows = gallery_images(np.arange(len(image)), len(image), gallery)
        pair = ids, ids[rows]
        ranks = embedding_ranks(text, image[rows], *pair, count_misses=True, progress=False)
        count = len(golden[f"{case}_cmc"])
        values = metrics_from_ranks(ranks, range(1, count + 1), trapezoid_ap=True)
        cmc = {"cmc": [values[f"R{k}"] / 100 for k in range(1, count + 1)]}
        stored = {"cmc": golden[f"{case}_cmc"]}
        report.compare(f"metrics {case}: cmc", cmc, stored, absolute(1e-6), "abs 1e-6")
        mean = {"mAP": values["mAP_trapezoid"] / 100}, {"mAP": golden[f"{case}_mAP"]}
        report.compare(f"metrics {case}: trapezoidal mAP", *mean, absolute(1e-9), "abs 1e-9")


def check_text_levels(report: Report) -> None:
    golden = report.json("text_levels.json")
    for key, function in CANDIDATES.items() if golden else ():
        cases = golden["cases"]
        pairs = {row["caption"]: (function(row["caption"]), row[key]) for row in cases}
        report.exact(f"text_levels: {key}", pairs)


def check_sampler(report: Report) -> None:
    """The released generators differ from ours, so the law is compared, not the order."""
    golden = report.json("sampler.json")
    if golden is None:
        return
    pids, size, k = np.array(golden["pids"]), golden["batch_size"], golden["num_instances"]
    seeds = [(random.Random(seed), np.random.RandomState(seed)) for seed in range(20)]
    orders = [identity_order(pids, size, k, *rngs) for rngs in seeds]
    stored = np.array(golden["indices"])
    report.exact("sampler: yielded", {"golden": (golden["n_yielded"], len(stored))})
    laws = {f"seed {i}": (law(order, pids, size, k), []) for i, order in enumerate(orders)}
    report.exact("sampler: law", {"golden": (law(stored, pids, size, k), [])} | laws)
    longest = {"length": (max(map(len, orders)), golden["reported_len"])}
    report.exact("sampler: reported length is the longest order", longest)


def law(order: np.ndarray, pids: np.ndarray, size: int, k: int) -> list[str]:
    """What an order violates of the law of the released identity sampler.

    A batch is P persons with K rows each; the rows left after a person's last whole group are not
    used; a person with fewer than K rows is filled up to one group, with replacement; an epoch
    ends when fewer than P persons have a group left.
    """
    wrong, left = [], 0
    groups = order.reshape(-1, k)
    rows_of = Counter(pids.tolist())
    if len(order) % size:
        wrong.append("a partial batch")
    if any(len(set(pids[group])) != 1 for group in groups):
        wrong.append("a group of several persons")
    for batch in pids[order].reshape(-1, size // k, k):
        if len(set(batch[:, 0])) != size // k:
            wrong.append("a person twice in a batch")
    for person in set(pids.tolist()):
        mine = groups[pids[groups[:, 0]] == person]
        whole = rows_of[person] >= k
        if whole and len(set(mine.ravel())) != mine.size:
            wrong.append(f"person {person}: a row twice")
        most = max(1, rows_of[person] // k)
        if len(mine) > most:
            wrong.append(f"person {person}: too many groups")
        left += len(mine) < most
    if left >= size // k:
        wrong.append("it ended although enough persons had a group left")
    return wrong
