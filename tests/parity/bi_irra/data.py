"""Bi-IRRA's captions, masked words and patch masks against golden draws of the released code."""

import os
import random
from typing import Any

import numpy as np

from data_pipelines.columns.masked_patches import block_mask
from data_pipelines.columns.masked_words import masked_positions, replace_tokens
from parity.report import Report, absolute
from tipr_jax.batch import MaskedWords
from tipr_jax.text.xlm_roberta import XlmRobertaTokenizer, clean

VOCABULARY = "XLM_ROBERTA"  # environment variable: a folder of xlm-roberta-base
DRAWS = 4000
SHARE = absolute(0.04), "abs 0.04"  # 4 sigma of a share of so many draws are at most 0.032


def check_cleaning(report: Report) -> None:
    for length in (77, 168):
        rows = _captions(report, f"pre{length}")
        pairs = {row["raw"]: (clean(row["raw"], length), row[f"pre{length}"]) for row in rows}
        report.exact(f"tokenizer: cleaning, {length} words", pairs)


def check_token_ids(report: Report) -> None:
    """Needs the vocabulary of XLM-R, which is not part of the golden data."""
    directory = os.environ.get(VOCABULARY)
    if not directory:
        report.absent.append(f"tokenizer ids: set {VOCABULARY} to the folder of xlm-roberta-base")
        return
    tokenizer = XlmRobertaTokenizer.load(directory)
    for length in (77, 168):
        pairs = {}
        for row in _captions(report, f"ids{length}"):
            want = row[f"ids{length}"] + [tokenizer.pad_id] * (length - len(row[f"ids{length}"]))
            pairs[row["raw"]] = tokenizer([row["raw"]], length)[0], want
        report.exact(f"tokenizer: ids, {length} tokens", pairs)


def _captions(report: Report, key: str) -> list[dict[str, Any]]:
    golden = report.json("tokenizer.json") or {"captions": []}
    return [row for row in golden["captions"] if key in row]


def check_text_masking(report: Report) -> None:
    golden = report.json("text_masking.json")
    if golden is None:
        return
    given = golden["params"]
    law = MaskedWords(
        share=given["mask_prob"],
        max_masks=given["max_masks"],
        span_probability=given["skipgram_prb"],
        span_max=given["skipgram_size"],
        whole_words=given["whole_word"],
    )
    pairs = {}
    for case in golden["cases"]:
        at, masked = _mask(case["ids"], law, random.Random(case["seed"]))
        name = f"seed {case['seed']}"
        pairs[f"{name}: positions"] = at, case["masked_pos"]
        pairs[f"{name}: labels"] = [case["ids"][i] for i in at], case["labels"]
        pairs[f"{name}: ids"] = masked, case["masked_ids_seq"]
    report.exact("text_masking: draws", pairs)
    _check_masking_shares(report, law, golden["stats"])


def _mask(ids: list[int], law: MaskedWords, rng: random.Random) -> tuple[list[int], list[int]]:
    """(positions, ids after masking) with the published vocabulary."""
    at = masked_positions(len(ids), law, rng)
    hidden = replace_tokens([ids[i] for i in at], law, rng, 250001, 250002)
    replaced = dict(zip(at, hidden, strict=True))
    return at, [replaced.get(i, token) for i, token in enumerate(ids)]


def _check_masking_shares(report: Report, law: MaskedWords, stats: dict[str, Any]) -> None:
    rng, length = random.Random(0), stats["length"]
    ids = list(range(10, 10 + length))
    rate, kinds, counts = np.zeros(length), np.zeros(3), []
    for _ in range(DRAWS):
        at, masked = _mask(ids, law, rng)
        rate[at] += 1
        counts.append(len(at))
        for i in at:
            kinds[0 if masked[i] == 250001 else 2 if masked[i] == ids[i] else 1] += 1
    ours = {"position_rate": rate / DRAWS, "mask_random_keep": kinds / kinds.sum()}
    report.compare("text_masking: shares", ours, {k: stats[k] for k in ours}, *SHARE)
    bounds = {"min": (min(counts), stats["min"]), "max": (max(counts), stats["max"])}
    report.exact("text_masking: number of masks", bounds)


def check_patch_masks(report: Report) -> None:
    golden, stats = report.arrays("block_masks.npz"), report.json("block_mask_stats.json")
    if golden is None or stats is None:
        return
    for case, stored in stats.items():
        side, count = map(int, case.split("_"))
        seeds = golden[f"seed_{case}"].tolist()
        ours = np.array([block_mask((side, side), count, random.Random(s)) for s in seeds])
        report.exact(f"block_masks: {case}", {case: (ours, golden[f"mask_{case}"])})
        rng = random.Random(0)
        drawn = np.array([block_mask((side, side), count, rng) for _ in range(DRAWS)])
        counts, rates = drawn.sum((1, 2)), drawn.mean(0)
        shares = {
            "count_mean": counts.mean(),
            "frac_exact": np.mean(counts == count),
            "per_cell_mean_min": rates.min(),
            "per_cell_mean_max": rates.max(),
        }
        report.compare(
            f"block_masks: {case} shares", shares, {k: stored[k] for k in shares}, *SHARE
        )
