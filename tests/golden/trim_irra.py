"""Makes the trimmed IRRA arrays of tests/golden/irra: `python tests/golden/trim_irra.py SOURCE`.

SOURCE holds the full golden arrays (see scripts/check_golden.py). Lossless but for size: weights
are float16 (their values are), and of a large activation every n-th value of the flattened array
is kept, under the name "key@n".
"""

import json
import sys
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parent / "irra"
KEEP = 3000  # values per activation


def thin(name: str, x: np.ndarray) -> tuple[str, np.ndarray]:
    step = x.size // KEEP | 1  # odd: never in step with the power-of-two widths
    return (name, x) if step == 1 else (f"{name}@{step}", x.reshape(-1)[::step])


def main(source: Path) -> None:
    arrays = {path.stem: dict(np.load(path)) for path in source.glob("*.npz")}
    save = lambda name, content: np.savez_compressed(TARGET / f"{name}.npz", **content)  # noqa: E731
    for config in ("s12", "s16"):
        weights = arrays[f"weights_{config}"]
        assert all(np.array_equal(x.astype(np.float16), x) for x in weights.values())
        save(f"weights_{config}", {k: x.astype(np.float16) for k, x in weights.items()})
        forward = arrays[f"forward_{config}"]
        kept = {k: x for k, x in forward.items() if k.startswith("in/")}
        thinned = dict(thin(k, x) for k, x in forward.items() if k not in kept)
        save(f"forward_{config}", kept | thinned)
        save(f"grads_{config}", arrays[f"grads_{config}"])
    trajectory = arrays["trajectory_s12"]
    save(
        "trajectory_s12",
        {k: x for k, x in trajectory.items() if not k.startswith(("const/", "default/"))},
    )
    for name in ("losses", "adam_unit", "lr_schedule"):
        save(name, arrays[name])
    resize = arrays["pos_embed"]
    cases = ("vitb16_384x128_s16", "vitb16_384x128_s12", "same_14x14")
    save("pos_embed", {k: x for k, x in resize.items() if k.startswith(cases)})
    for name in ("configs", "vitb16_params", "mlm_masking"):
        content = json.loads((source / f"{name}.json").read_text())
        (TARGET / f"{name}.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
