"""Makes the trimmed Bi-IRRA arrays of tests/golden/bi_irra: `python trim_bi_irra.py SOURCE`.

SOURCE holds the full golden arrays (see scripts/check_golden.py). Weights become float16 (their
values are), arrays are compressed, JSON has no spaces; of long lists of cases every n-th stays.
"""

import json
import sys
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parent / "bi_irra"
JSON = (
    "config",
    "losses_and_grad_norms",
    "trajectory",
    "eval",
    "full_size_manifest",
    "block_mask_stats",
)
ARRAYS = (
    "inputs",
    "forward",
    "grads",
    "rel_pos_index",
    "lr_schedule",
    "eval",
    "itc_multi_device",
    "block_masks",
)
EVERY = {"text_masking": ("cases", 4), "tokenizer": ("captions", 5)}  # list, of which every n-th


def half(x: np.ndarray) -> np.ndarray:
    """float16 where that loses nothing."""
    return x.astype(np.float16) if np.array_equal(x.astype(np.float16), x) else x


def main(source: Path) -> None:
    TARGET.mkdir(exist_ok=True)
    for name in ARRAYS:
        np.savez_compressed(TARGET / f"{name}.npz", **np.load(source / f"{name}.npz"))
    weights = np.load(source / "weights.npz")
    np.savez_compressed(TARGET / "weights.npz", **{k: half(weights[k]) for k in weights})
    for name in (*JSON, *EVERY):
        content = json.loads((source / f"{name}.json").read_text())
        if name in EVERY:
            key, step = EVERY[name]
            content[key] = content[key][::step]
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
        (TARGET / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
