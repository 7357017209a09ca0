"""Makes the trimmed IVT arrays of tests/golden/ivt: `python tests/golden/trim_ivt.py SOURCE`.

SOURCE holds the full golden arrays (see scripts/check_golden.py). Values are untouched; tensors
that nothing reads, most activations and two of the four removal cases are left out, and so are the
pre-training files, whose weights are as large as all the rest.
"""

import shutil
import sys
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parent / "ivt"
WHOLE = ("inputs", "droppath", "cmpm", "lr_schedule", "pos_resize", "trajectory", "metrics")
INERT = ("temp", "classifier_img", "bottleneck_img")
ACTIVATIONS = ("out_vis", "out_txt", "txt_text_embed", "vis_patch_embed", "vis_blk1_attn")


def main(source: Path) -> None:
    TARGET.mkdir(exist_ok=True)
    for name in WHOLE:
        shutil.copyfile(source / f"{name}.npz", TARGET / f"{name}.npz")
    weights = np.load(source / "weights.npz")
    save("weights", {k: weights[k] for k in weights if not k.startswith(INERT)})
    features = np.load(source / "eval_features.npz")
    save("eval_features", {k: features[k] for k in ACTIVATIONS})
    masked = np.load(source / "masked_train.npz")
    save("masked_train", {k: masked[k] for k in masked if k.startswith(("mid/", "heavy"))})
    for name in (
        "config.json",
        "full_size_manifest_stride12.json",
        "text_levels.json",
        "sampler.json",
    ):
        shutil.copyfile(source / name, TARGET / name)


def save(name: str, arrays: dict[str, np.ndarray]) -> None:
    np.savez_compressed(TARGET / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
