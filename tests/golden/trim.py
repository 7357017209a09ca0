"""Makes the trimmed golden arrays of this folder: `python tests/golden/trim.py METHOD SOURCE`.

SOURCE is a whole golden directory of the layout that `scripts/check_golden.py METHOD SOURCE`
compares. The trimmed copy has the same layout: some files, arrays and cases are left out, weights
become float16 (only where that loses nothing), and of large arrays that are only compared, never
fed, every n-th value stays (`parity.report.Thinned`).
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from parity.report import Thinned  # noqa: E402

KEEP = 3000  # values of a thinned array


class Rules(NamedTuple):
    """Patterns match "file/array" or "file" from the start."""

    drop: tuple[str, ...] = ()
    thin: tuple[str, ...] = ()
    every: dict[str, tuple[str, int]] = {}  # json file: (its list of cases, of which every n-th)


RULES = {
    "irra": Rules(
        drop=(
            "trajectory_s12.npz/(const|default)/",
            "pos_embed.npz/(?!vitb16_384x128_s1[26]|same_14x14)",
            "eval_metrics.npz/ties/(indices|topk_cmc)",  # equal scores: their order is arbitrary
        ),
        thin=("forward_.*/out/", "image_transform.npz/.*/resized"),
    ),
    "ivt": Rules(
        drop=(
            "pretrain",  # whose weights are as large as all the rest
            "masked_train.npz/(?!mid|heavy)",
            "weights.npz/(temp|classifier_img|bottleneck_img)",  # nothing reads them
        ),
        thin=("eval_features.npz/",),
    ),
    "rde": Rules(
        drop=(
            ".*_s12",  # one model is enough
            "trajectory",  # the epochs are trajectories, too
            "epochs_p8.npz/published_tight/",
            "grads_p8.npz/full/(base_model|.*weight$)",
            "losses.npz/(?!cases|b8_mixed|b4_one_person|b6_one_clean)",
            "ccd.npz/(?!cases|split|rstp_0|cuhk_0)",
            "eval_metrics.npz/(?!cases|mixed)",
        ),
        thin=("forward_.*/out/(image|text)_feats",),
    ),
    "bi_irra": Rules(
        thin=("forward.npz/(?!rect/(image$|blocks))",),
        every={"text_masking.json": ("cases", 4), "tokenizer.json": ("captions", 5)},
    ),
}


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(re.match(pattern, name) for pattern in patterns)


def half(x: np.ndarray) -> np.ndarray:
    """float16 where that loses nothing."""
    return x.astype(np.float16) if np.array_equal(x.astype(np.float16), x) else x


def thin(name: str, x: np.ndarray) -> tuple[str, np.ndarray]:
    step = x.size // KEEP | 1  # odd: never in step with widths that are powers of two
    if step == 1:
        return name, x
    kept = Thinned(x.reshape(-1)[::step], step, x.shape)
    return name + kept.name_suffix, kept.values


def trim_arrays(source: Path, target: Path, rules: Rules) -> None:
    kept = {}
    for key, x in np.load(source).items():
        name = f"{source.name}/{key}"
        if not matches(name, rules.drop):
            x = half(x) if source.name.startswith("weights") else x
            key, x = thin(key, x) if matches(name, rules.thin) else (key, x)
            kept[key] = x
    np.savez_compressed(target, **kept)


def trim_json(source: Path, target: Path, rules: Rules) -> None:
    content: Any = json.loads(source.read_text(encoding="utf-8"))
    if source.name in rules.every:
        key, step = rules.every[source.name]
        content[key] = content[key][::step]
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    target.write_text(text + "\n", encoding="utf-8")


def main(method: str, source: Path) -> None:
    rules = RULES.get(method, Rules())
    for file in sorted(source.iterdir()):
        target = HERE / method / file.name
        if file.suffix == ".md" or matches(file.name, rules.drop):
            continue
        if file.suffix == ".npz":
            trim_arrays(file, target, rules)
        elif file.suffix == ".json":
            trim_json(file, target, rules)
        else:
            shutil.copyfile(file, target)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
