"""Exchanges training captions on purpose: `python -m data_pipelines.noise --rate=0.5 --output=DIR`.

Writes a copy of a data set, in its own layout, in which a share of the training images have the
caption of another image: what a method stands that learns from people's own, careless captions.
Any method trains on the copy, the released PyTorch codes, too. Images are not copied but linked;
validation and test stay as they are. The file caption_index.npy beside the annotations tells which
caption each pair has.

Source: the noise of RDE (CVPR 2024), datasets/bases.py in its release; with seed 1 the same pairs
are exchanged as in its files noiseindex/*.npy, which --index reads, too.
"""

if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.datasets.annotation_file import read_entries
from data_pipelines.datasets.annotations import entry_problem, find_files
from data_pipelines.datasets.layouts import LAYOUTS, get_layout
from tipr_jax import command_line
from tipr_jax.paths import local_path

INDEX = "caption_index.npy"


def caption_index(count: int, rate: float, seed: int = 1) -> np.ndarray:
    """int64 [count]: pair i gets the caption of pair index[i].

    int(rate * count) pairs exchange their captions among themselves; a few keep their own by
    chance. Captions of one person may be exchanged, too (released).

    Raises:
      ValueError: a rate outside of 0 to 1.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"the rate is {rate}, expected a share between 0 and 1")
    # The legacy generator, which numpy promises never to change: it reproduces the released files.
    rng = np.random.RandomState(seed)
    order, index = np.arange(count), np.arange(count)
    rng.shuffle(order)
    chosen = order[: int(rate * count)]
    captions = chosen.copy()
    rng.shuffle(captions)
    index[chosen] = captions
    return index


def read_index(path: str | os.PathLike) -> np.ndarray:
    """A stored index, int64 [N].

    Raises:
      ValueError: no .npy file, or numbers that are not 0 to N - 1 in some order.
    """
    try:
        index = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"--index={path} is not an .npy file of numbers ({error})") from None
    if index.ndim != 1 or not np.array_equal(np.sort(index), np.arange(len(index))):
        raise ValueError(
            f"--index={path} is {index.dtype}{list(index.shape)}, expected the numbers 0 to N - 1, "
            "each once: the caption of every training pair"
        )
    return index.astype(np.int64)


def exchange(entries: list[dict[str, Any]], index: np.ndarray) -> list[dict[str, Any]]:
    """The entries with exchanged captions; those of the train split count, in file order.

    The field processed_tokens of CUHK-PEDES, which would belong to other captions, is left out.

    Raises:
      ValueError: the index belongs to another number of captions.
    """
    captions = [c for entry in entries if entry["split"] == "train" for c in entry["captions"]]
    if len(captions) != len(index):
        raise ValueError(
            f"the index has {len(index)} numbers, but the train split has {len(captions)} "
            "captions; it belongs to other annotations"
        )
    new, out = iter([captions[i] for i in index]), []
    for entry in entries:
        if entry["split"] == "train":
            entry = {key: value for key, value in entry.items() if key != "processed_tokens"}
            entry["captions"] = [next(new) for _ in entry["captions"]]
        out.append(entry)
    return out


def write_copy(
    name: str, root: Path, output: Path, index: np.ndarray | None, rate: float, seed: int
) -> np.ndarray:
    """Writes the copy below `output` and returns its index; complete, or not there at all.

    index: which caption each pair gets; None: `caption_index` of rate and seed.

    Raises:
      FileNotFoundError, ValueError: as `load_dataset`, `caption_index` and `exchange`.
      FileExistsError: there is something at the place of the copy.
    """
    layout = get_layout(name)
    annotation_file, image_root = find_files(name, str(root))
    target = output / layout.directory
    if target.exists():
        raise FileExistsError(f"{target} exists and is kept; choose another --output")
    entries = read_entries(annotation_file)
    for number, entry in enumerate(entries):
        if problem := entry_problem(layout, entry):
            raise ValueError(f"{annotation_file}: entry {number}: {problem}")
    if index is None:
        count = sum(len(e["captions"]) for e in entries if e["split"] == "train")
        index = caption_index(count, rate, seed)
    content = json.dumps(exchange(entries, index), ensure_ascii=False)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    (partial / Path(annotation_file).name).write_text(content, "utf-8", errors="surrogatepass")
    (partial / "imgs").symlink_to(image_root, target_is_directory=True)
    np.save(partial / INDEX, index)
    partial.rename(target)
    return index


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = command_line.Parser(
        prog="python -m data_pipelines.noise",
        description=__doc__,
        example="python -m data_pipelines.noise --name=cuhk_pedes --root=/data --rate=0.5 "
        "--output=/data_noise50",
    )
    parser.add_argument("--name", choices=LAYOUTS, default="cuhk_pedes")
    parser.add_argument(
        "--root",
        default=os.environ.get("TIPR_DATA", "data"),
        help="directory with the data set's own one (default: $TIPR_DATA or data)",
    )
    parser.add_argument("--output", required=True, help="where the copy goes: the new --root")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--rate", type=float, help="share of the captions to exchange, 0 to 1")
    what.add_argument("--index", help="an .npy file: which caption each training pair gets")
    parser.add_argument("--seed", type=int, default=1, help="with --rate (default 1, as released)")
    options = parser.parse_args(argv)
    command_line.tolerant_output()
    try:
        stored = read_index(local_path(options.index, "--index")) if options.index else None
        root, output = local_path(options.root, "--root"), local_path(options.output, "--output")
        index = write_copy(options.name, root, output, stored, options.rate or 0.0, options.seed)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    moved = np.count_nonzero(index != np.arange(len(index)))
    print(
        f"{options.output}: {moved:,} of {len(index):,} training pairs have the caption of another "
        f"({100 * moved / max(1, len(index)):.1f} %); train on it with "
        f"--config.data.root={options.output}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
