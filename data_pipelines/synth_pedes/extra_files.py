"""Files beside the official ones: true attributes of the captions, and a pre-training list.

cuhk_pedes_att.json has the form of the file that the authors of IVT add to CUHK-PEDES, with what
the captions really tell. pretrain.json lists the train images and captions as {image, caption}, one
object per pair, paths relative to the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_pipelines.attributes import FILE as ATTRIBUTE_FILE
from data_pipelines.attributes import SOURCE
from data_pipelines.synth_pedes.layouts import LAYOUTS
from data_pipelines.synth_pedes.people import people, photographs

PRETRAIN_FILE = "pretrain.json"


def write_missing(directory: Path, manifest: dict) -> None:
    """Writes those of the files that `directory` lacks; each appears only when it is complete."""
    files = {PRETRAIN_FILE: _pretrain}
    if manifest["layout"] == "cuhk_pedes":
        files[ATTRIBUTE_FILE] = _attributes
    for name, lines in files.items():
        if not (directory / name).exists():
            partial = directory / f".{name}.{os.getpid()}"
            with open(partial, "w", encoding="utf-8") as file:
                file.writelines(lines(manifest))
            partial.replace(directory / name)


def _pretrain(manifest: dict) -> Iterator[str]:
    return _json_list(
        {"image": f"imgs/{entry['file_path']}", "caption": entry["captions"]}
        for entry in _entries(manifest, "train")
    )


def _attributes(manifest: dict) -> Iterator[str]:
    yield f"{{{json.dumps(SOURCE)}: {json.dumps('true attributes, synth_pedes')}"
    for split in manifest["ids"]:
        yield f",\n{json.dumps(split)}: "
        yield from _json_list(_entries(manifest, split))
    yield "}\n"


def _entries(manifest: dict, split: str) -> Iterator[dict]:
    """One per (image, caption), as in the authors' file."""
    entry = LAYOUTS["cuhk_pedes"].entry
    for person in people(manifest):
        if person.split != split:
            continue
        for photo in photographs(manifest, person)[1]:
            for caption, attributes in zip(photo.captions, photo.attributes, strict=True):
                yield {
                    "id": person.person_id,
                    "file_path": photo.path,
                    "captions": caption,
                    "processed_tokens": entry(split, 0, "", [caption])["processed_tokens"][0],
                    "att": attributes,
                }


def _json_list(entries: Iterable[dict]) -> Iterator[str]:
    separator = "[\n"
    for entry in entries:
        yield separator + json.dumps(entry, ensure_ascii=False)
        separator = ",\n"
    yield "\n]\n" if separator == ",\n" else "[]\n"
