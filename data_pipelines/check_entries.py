"""What can be wrong with annotation entries and their images, whatever file they are from.

An entry has split, id, captions and the path of its image; in a manifest also the box of a person
in a whole picture. Findings are lines by kind: problems stop training, notes do not.
"""

import collections
import concurrent.futures
import hashlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import tqdm

from data_pipelines.manifest.look_alikes import look_alikes, look_of
from tipr_jax.preprocess import image as preprocess
from tipr_jax.preprocess.box import Box, cut_out
from tipr_jax.text import Tokenizer
from tipr_jax.text.reading import is_cut, unread

USUAL_SIZE = (384, 128)  # (H, W) that images are trained on, unless the config says otherwise
SHOWN_PER_KIND = 10
Entries = list[dict[str, Any]]
Findings = dict[str, list[str]]
Key = tuple[str, Box | None]  # of an image: its path as the entry has it, and the box


class Seen(NamedTuple):
    """digest: of the file's bytes; look: `look_alikes.look_of`, for two photos that are alike."""

    digest: str
    look: bytes


def key_of(entry: dict[str, Any], path_key: str) -> Key:
    return entry[path_key], entry.get("box")


def note(notes: Findings, kind: str, lines: Sequence[str]) -> None:
    """Adds the lines, if there are any."""
    if lines:
        notes[kind] += lines


def read_images(
    entries: Entries, path_key: str, image_root: str, problems: Findings
) -> dict[Key, Seen]:
    """Opens every listed image once; returns what was seen of the readable ones."""
    keys = list(dict.fromkeys(key_of(entry, path_key) for entry in entries))
    seen = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda key: _read_image(os.path.join(image_root, key[0]), key[1]), keys)
        bar = tqdm.tqdm(results, "check images", len(keys), unit="img", leave=False, disable=None)
        for key, (problem, found) in zip(keys, bar, strict=True):
            if isinstance(found, str):
                problems[problem].append(found)
            else:
                seen[key] = found
    return seen


def _read_image(path: str, box: Box | None) -> tuple[str, str | Seen]:
    """Returns (kind of problem, message), or ("", what was seen)."""
    try:
        pixels = preprocess.decode(path, size=None if box else USUAL_SIZE)
        if box:
            pixels = cut_out(pixels, box, USUAL_SIZE[0] / USUAL_SIZE[1])
    except FileNotFoundError as error:
        return "missing image", str(error)
    except preprocess.ImageTooLargeError as error:
        return "oversized image", str(error)
    except (ValueError, OSError) as error:
        empty = os.path.isfile(path) and os.path.getsize(path) == 0
        return "zero-byte image" if empty else "undecodable image", str(error)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return "", Seen(digest, look_of(pixels))


def find_duplicate_images(
    entries: Entries,
    path_key: str,
    seen: dict[Key, Seen],
    problems: Findings,
    notes: Findings,
) -> None:
    """Equal files: across splits a problem (the evaluation saw training images), else a note."""
    places = collections.defaultdict(list)
    for entry in entries:
        if image := seen.get(key_of(entry, path_key)):
            places[image.digest, entry.get("box")].append((entry["split"], entry[path_key]))
    for found in places.values():
        if len(found) > 1:
            detail = " = ".join(f"{split}:{path}" for split, path in found)
            if len({split for split, _ in found}) > 1:
                problems["image in several splits"].append(detail)
            else:
                notes["image listed or stored twice"].append(detail)


def find_look_alikes(
    entries: Entries, path_key: str, seen: dict[Key, Seen], notes: Findings
) -> None:
    """Photos of two people that look the same: probably one photo of one person."""
    shown = [entry for entry in entries if key_of(entry, path_key) in seen]
    if len(shown) < 2:
        return
    for pair in look_alikes([seen[key_of(entry, path_key)].look for entry in shown]):
        earlier, later = (shown[i] for i in pair)
        equal = seen[key_of(earlier, path_key)].digest == seen[key_of(later, path_key)].digest
        if earlier["id"] != later["id"] and not equal:  # equal files are told elsewhere
            notes["photos of two people that look the same; give both one person_id"].append(
                " = ".join(f"{entry['split']}:{entry[path_key]}" for entry in (earlier, later))
            )


def find_empty_splits(entries: Entries, problems: Findings) -> None:
    """Training needs pairs to train on and a test split to select on."""
    found = {entry["split"] for entry in entries}
    if found == {""}:
        return  # a manifest whose people cannot be drawn into splits; it was said
    if "train" not in found and "empty split" not in problems:
        problems["empty split"].append("train has no sound entry, so there is nothing to train on")
    if "test" not in found:
        problems["empty split"].append(
            "test has no sound entry; to train without one set --config.eval.select_on=val"
        )


def find_images_of_several_persons(entries: Entries, path_key: str, notes: Findings) -> None:
    """One image under two ids: training would call one person two, and evaluation a match wrong."""
    persons = collections.defaultdict(set)
    for entry in entries:
        persons[entry["split"], key_of(entry, path_key)].add(entry["id"])
    for (split, (path, _)), ids in persons.items():
        if len(ids) > 1:
            named = ", ".join(map(str, sorted(ids)))
            notes["image of several persons"].append(f"{split}:{path} has the ids {named}")


def find_cut_captions(entries: Entries, reader: tuple[Tokenizer, int], notes: Findings) -> None:
    """Captions whose end a model does not read; shows the ends of the first ones."""
    tokenizer, length = reader
    captions = [caption for entry in entries for caption in entry["captions"]]
    long = [c for c, cut in zip(captions, is_cut(tokenizer, captions, length), strict=True) if cut]
    shown = [f"unread: {unread(tokenizer, caption, length)}" for caption in long[:SHOWN_PER_KIND]]
    note(notes, f"captions of more than {length} tokens", shown + long[SHOWN_PER_KIND:])


def find_shared_captions(entries: Entries, notes: Findings) -> None:
    """Equal captions in several splits: a note, since short descriptions fit several persons."""
    splits = collections.defaultdict(set)
    for entry in entries:
        for caption in entry["captions"]:
            splits[caption].add(entry["split"])
    for caption, found in splits.items():
        if len(found) > 1:
            notes["caption in several splits"].append(f"{'+'.join(sorted(found))}: {caption}")


def find_shared_persons(entries: Entries, notes: Findings) -> None:
    """Ids in several splits: a note, since some sets number each split from zero."""
    splits = collections.defaultdict(set)
    for entry in entries:
        splits[entry["id"]].add(entry["split"])
    for person_id, found in sorted(splits.items()):
        if len(found) > 1:
            notes["person id in several splits"].append(f"{'+'.join(sorted(found))}: {person_id}")
