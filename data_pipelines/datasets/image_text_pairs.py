"""Image-text pairs for pre-training: JSON lists of {image, caption}.

The cleaning of captions is that of IVT's pre-training (released as the option `pretrain`).
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.datasets.annotation_file import path_problem, read_entries
from data_pipelines.datasets.split import Split

NAME = "image_text_pairs"  # value of data.name
MAX_WORDS = 50
_CLEANING = str.maketrans({c: None for c in ",.'!?\"()*#:;~"} | {"-": " ", "/": " "})


def clean_caption(caption: str) -> str:
    """Lower case, no punctuation, single spaces, at most 50 words.

    "<person>", which hides names in web captions, becomes "person".
    """
    text = caption.lower().translate(_CLEANING).replace("<person>", "person")
    return " ".join(text.split()[:MAX_WORDS])


def load_image_text_pairs(files: Sequence[str | os.PathLike], image_root: str = "") -> Split:
    """Reads lists of pairs as one train split, in the order of the files.

    Every pair is a person of its own: person_id = image_id = its place.

    Args:
      files: JSON lists of {"image": path, "caption": text}.
      image_root: where the paths start; "": at the directory of the file that they are in.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: no file is given, or one is not a list of pairs; the message names the entry.
    """
    if not files:
        raise ValueError("no pre-training list given; expected JSON files of {image, caption}")
    paths: list[str] = []
    captions: list[str] = []
    for file in files:
        file = os.path.abspath(os.path.expanduser(file))
        if not os.path.isfile(file):
            raise FileNotFoundError(
                f"pre-training list {file} does not exist; expected a JSON list of "
                "{image, caption} (python -m data_pipelines.synth_pedes writes one: pretrain.json)"
            )
        root = os.path.abspath(os.path.expanduser(image_root or os.path.dirname(file)))
        for index, entry in enumerate(read_entries(file)):
            if problem := _pair_problem(entry, root):
                raise ValueError(f"{file}: entry {index}: {problem}")
            paths.append(os.path.join(root, entry["image"]))
            captions.append(clean_caption(entry["caption"]))
    ids = np.arange(len(paths), dtype=np.int32)
    return Split("train", tuple(paths), ids, tuple(captions), ids)


def _pair_problem(entry: Any, root: str) -> str | None:
    """Says what is wrong with one pair, in one line; None if it is fine."""
    if not isinstance(entry, dict):
        return f"expected an object with image and caption, found {type(entry).__name__}"
    for key in ("image", "caption"):
        if key not in entry:
            return f"has no {key!r}; is this a list of {{image, caption}}?"
    if not isinstance(entry["caption"], str):
        return f"caption must be a string, found {entry['caption']!r}"
    if problem := path_problem("image", entry["image"], root):
        return problem
    if not clean_caption(entry["caption"]):
        return f"nothing is left of caption {entry['caption']!r} after cleaning; remove the entry"
    return None
