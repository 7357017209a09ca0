"""Everything around the model against golden arrays: metrics, images, text, masking, data sets."""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.datasets.annotations import load_dataset
from data_pipelines.datasets.layouts import LAYOUTS
from data_pipelines.datasets.split import Split
from data_pipelines.sampler import identity_order
from parity.report import Report, absolute
from tipr_jax.augment import image as device_image
from tipr_jax.augment.masking import apply_mask, mask_tokens
from tipr_jax.metrics import retrieval
from tipr_jax.models.irra import MEAN, STD
from tipr_jax.preprocess import image as host_image
from tipr_jax.text import clip_bpe

PERCENT = absolute(1e-4), "1e-4 percent points"


def check_metrics(report: Report) -> None:
    golden = report.arrays("eval_metrics.npz")
    for case in sorted({key.split("/")[0] for key in golden or ()}):
        stored = golden.under(f"{case}/")
        if "similarity" in stored:
            ids = stored["q_pids"], stored["g_pids"]
            ranks = retrieval.positive_ranks(stored["similarity"], *ids)
            ours = retrieval.metrics_from_ranks(ranks, range(1, 11))
            # Among equal scores the released order is arbitrary, so ties count as in a stable sort.
            names = ("stable_",) if case == "ties" else ("", "stable_")
            for prefix in names:
                compare_metrics(report, f"eval_metrics {case} {prefix}*", ours, stored, prefix)
            if case != "ties":
                topk = cmc(stored["topk_cmc"])
                recalls = {key: ours[key] for key in topk}
                report.compare(f"eval_metrics {case} topk_cmc", recalls, topk, *PERCENT)
                match = ids[1][stored["indices"]] == ids[0][:, None]
                pairs = {"ranks of the positives": (ranks.rank, np.nonzero(match)[1] + 1)}
                report.exact(f"eval_metrics {case} indices", pairs)
    if golden and "features/qfeats" in golden:
        check_feature_metrics(report, golden)


def check_feature_metrics(report: Report, golden) -> None:
    """From raw features, through the normalisation, in both directions."""
    text, image = golden["features/qfeats"], golden["features/gfeats"]
    for case, query, gallery in (("features_t2i", text, image), ("features_i2t", image, text)):
        if f"{case}/q_pids" in golden:
            stored = golden.under(f"{case}/")
            ids = stored["q_pids"], stored["g_pids"]
            ranks = retrieval.embedding_ranks(query, gallery, *ids, progress=False)
            ours = retrieval.metrics_from_ranks(ranks, range(1, 11))
            compare_metrics(report, f"eval_metrics {case} from features", ours, stored, "")


def compare_metrics(report: Report, title: str, ours: dict, stored: dict, prefix: str) -> None:
    golden = cmc(stored[f"{prefix}cmc"]) | {k: stored[prefix + k] for k in ("mAP", "mINP")}
    report.compare(title, {key: ours[key] for key in golden}, golden, *PERCENT)


def cmc(values: np.ndarray) -> dict[str, float]:
    """Values of R@1, R@2, ... by name."""
    return {f"R{k}": value for k, value in enumerate(values, 1)}


def check_image_transform(report: Report) -> None:
    golden = report.arrays("image_transform.npz")
    for case in sorted({key.split("/")[0] for key in golden or ()}):
        stored = golden.under(f"{case}/")
        resized = host_image.resize(stored["input_u8_hwc"], stored["resized_u8_hwc"].shape[:2])
        pixels = {"pixels": (resized, stored["resized_u8_hwc"])}
        report.exact(f"image_transform {case} resize", pixels)
        for where, normalised in (
            ("host", host_image.normalise(resized)),
            ("device", np.asarray(device_image.normalise(jnp.asarray(resized), MEAN, STD))),
        ):
            rows = stored["normalised_chw_rows0_8"]
            ours = {
                "rows": normalised.transpose(2, 0, 1)[:, : rows.shape[1]],
                "mean_std": [normalised.mean(dtype=np.float64), normalised.std(dtype=np.float64)],
            }
            pair = {"rows": rows, "mean_std": stored["normalised_mean_std"]}
            report.compare(
                f"image_transform {case} {where}", ours, pair, absolute(2e-6), "abs 2e-6"
            )


def check_tokenizer(report: Report) -> None:
    golden = report.json("tokenizer.json")
    tokenizer = clip_bpe.ClipTokenizer()
    encode = lambda text, n: tokenizer([text], n, allow_special=True)[0].tolist()  # noqa: E731
    if golden:
        names = {"vocab_size": "VOCAB_SIZE", "mask": "MASK_ID", "sot": "SOT_ID", "eot": "EOT_ID"}
        meta = {k: (getattr(clip_bpe, v), golden["meta"][k]) for k, v in names.items()}
        report.exact("tokenizer constants", meta)
        # The released code raises KeyError on "jekyll"; ours encodes it (deliberate).
        rows = [row for row in golden["captions"] if "error" not in row]
        bare = tokenizer.encode([row["text"] for row in rows], allow_special=True)
        pairs = {r["text"]: (ids, r["ids"]) for r, ids in zip(rows, bare, strict=True)}
        report.exact("tokenizer ids", pairs)
        report.exact(
            "tokenizer padded77", {r["text"]: (encode(r["text"], 77), r["padded77"]) for r in rows}
        )
        decoded = {
            r["text"]: (tokenizer.decode(r["ids"]), r["decoded"])
            for r in rows
            if r.get("decoded") is not None
        }
        report.exact("tokenizer decoded", decoded)
    if lengths := report.json("tokenizer_lengths.json"):
        pairs = {}
        for row in lengths:
            text, length = row["text"], row["text_length"]
            pairs[f"{text} at {length}"] = (encode(text, length), row["ids"])
        report.exact("tokenizer_lengths", pairs)


def check_masking(report: Report) -> None:
    golden = report.json("mlm_masking.json")
    if golden is None:
        return
    pairs = {}
    for i, row in enumerate(golden["deterministic"]):
        ids = np.array(row["input_ids"], np.int32)
        draw, replacement = official_draws(ids, row["seed"], clip_bpe.MASK_ID)
        masked, labels = apply_mask(ids[None], draw[None], replacement[None], clip_bpe.MASK_ID)
        pairs[f"{i} ids"] = (masked[0].tolist(), row["mlm_ids"])
        pairs[f"{i} labels"] = (labels[0].tolist(), row["mlm_labels"])
        # mask_caption_ids: the other losses see the masked ids too, as the released buffer.
        pairs[f"{i} captions"] = (masked[0].tolist(), row["input_buffer_after"])
    report.exact("mlm_masking deterministic", pairs)
    check_mask_statistics(report, golden["statistics"])


def official_draws(ids: np.ndarray, seed: int, mask_id: int) -> tuple[np.ndarray, np.ndarray]:
    """The random numbers in the order in which the released code consumes them.

    anosorae/IRRA, datasets/bases.py: `_build_masked_tokens_and_labels`.
    """
    rng = random.Random(seed)
    draw, replacement = np.ones(len(ids)), np.ones(len(ids), np.int32)
    for position, token in enumerate(ids):
        if 0 < token < mask_id:
            draw[position] = rng.random()
            if 0.8 <= draw[position] / 0.15 < 0.9:
                replacement[position] = rng.choice(range(1, mask_id))
    return draw, replacement


def check_mask_statistics(report: Report, golden: dict) -> None:
    """Our generator is another one: the rates must agree within five standard deviations."""
    samples, short = golden["n_samples"], golden["short_two_word"]
    labels, masked, word = mask_captions(samples, round(golden["n_eligible"] / samples), seed=0)
    hit = labels != 0
    n, to_mask, kept = hit.sum(), masked[hit] == clip_bpe.MASK_ID, masked[hit] == word
    chosen = mask_captions(short["N"], 2, seed=1)[0] != 0
    count, n_golden = chosen.sum(axis=1), golden["n_selected"]
    ours = {  # (rate, size of the golden sample, size of ours)
        "selected_fraction": (hit.mean(), golden["n_eligible"], hit.size),
        "mask_fraction_of_selected": (to_mask.mean(), n_golden, n),
        "keep_fraction_of_selected": (kept.mean(), n_golden, n),
        "random_fraction_of_selected": (1 - to_mask.mean() - kept.mean(), n_golden, n),
        "p_one_label": (np.mean(count == 1), short["N"], short["N"]),
        "p_two_labels": (np.mean(count == 2), short["N"], short["N"]),
        "p_only_first": (np.mean((count == 1) & chosen[:, 0]), short["N"], short["N"]),
    }
    stored = golden | short
    for name, (rate, golden_size, our_size) in ours.items():
        deviation = np.sqrt(rate * (1 - rate) * (1 / golden_size + 1 / our_size))
        limit = absolute(5 * deviation), f"5 sigma = {5 * deviation:.1e}"
        report.compare(f"mlm_masking {name}", {name: rate}, {name: stored[name]}, *limit)


def mask_captions(rows: int, words: int, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(labels, masked ids) at the words of `rows` captions that repeat one word, and that word."""
    word = 777
    caption = np.array([clip_bpe.SOT_ID, *[word] * words, clip_bpe.EOT_ID], np.int32)
    mask = jax.jit(mask_tokens, static_argnums=2)
    masked, labels = mask(np.tile(caption, (rows, 1)), jax.random.key(seed), clip_bpe.MASK_ID)
    return np.asarray(labels)[:, 1:-1], np.asarray(masked)[:, 1:-1], word


def check_sampler(report: Report) -> None:
    pairs = {}
    for i, row in enumerate(report.json("identity_sampler.json") or ()):
        rngs = random.Random(row["seed"]), np.random.RandomState(row["seed"])
        order = identity_order(row["pids"], row["batch_size"], row["num_instances"], *rngs)
        pairs[f"{i} order"] = (order.tolist(), row["indices"])
        pairs[f"{i} yielded"] = (len(order), row["yielded"])
    if pairs:
        report.exact("identity_sampler", pairs)


def check_parsing(report: Report) -> None:
    for directory, row in (report.json("dataset_parse.json") or {}).items():
        name = next(key for key, layout in LAYOUTS.items() if layout.directory == directory)
        with tempfile.TemporaryDirectory() as root:
            path = Path(row["annotation_file"].replace("<ROOT>", root))
            (path.parent / "imgs").mkdir(parents=True)
            path.write_text(json.dumps(row["annotations"]))
            splits = load_dataset(name, root)
            pairs = {"train": (train_list(splits["train"], root), row["train"])}
            for split in ("val", "test"):
                pairs[split] = (evaluation_dict(splits[split], root), row[split])
            pairs["num_classes"] = (splits["train"].num_persons, row["num_classes"])
        report.exact(f"dataset_parse {directory}", pairs)


def train_list(split: Split, root: str) -> list[list[Any]]:
    """One [person_id, image_id, path, caption] per caption."""
    return [
        [int(person), int(image), split.image_path[image].replace(root, "<ROOT>"), caption]
        for person, image, caption in zip(
            split.caption_person_id, split.caption_image_id, split.caption, strict=True
        )
    ]


def evaluation_dict(split: Split, root: str) -> dict[str, list]:
    return {
        "image_pids": split.image_person_id.tolist(),
        "img_paths": [path.replace(root, "<ROOT>") for path in split.image_path],
        "caption_pids": split.caption_person_id.tolist(),
        "captions": list(split.caption),
    }
