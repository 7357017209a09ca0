"""Files beside the official ones: true attributes, a pre-training list, captions in languages.

cuhk_pedes_att.json has the form of the file that the authors of IVT add to CUHK-PEDES, with what
the captions really tell. pretrain.json lists the train images and captions as {image, caption}, one
object per pair, paths relative to the file. {split}_reid_{language}.json hold the captions of a
language, aligned over languages (see `data_pipelines.datasets.multilingual`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from data_pipelines.datasets import multilingual
from data_pipelines.datasets.layouts import ATTRIBUTE_SOURCE
from data_pipelines.synth_pedes.layouts import GENERATED_LAYOUTS
from data_pipelines.synth_pedes.people import people, photographs

PRETRAIN_FILE = "pretrain.json"


def write_missing(directory: Path, manifest: dict, languages: Sequence[str] = ()) -> None:
    """Writes the files that `directory` lacks; each appears only when it is complete."""
    for name, lines in _files(manifest, languages).items():
        if not (directory / name).exists():
            draft = directory / f".{name}.{os.getpid()}"
            with open(draft, "w", encoding="utf-8") as file:
                file.writelines(lines(manifest))
            draft.replace(directory / name)


def _files(manifest: dict, languages: Sequence[str]) -> dict[str, Callable[[dict], Iterable[str]]]:
    """File name -> what writes its lines."""
    files: dict[str, Callable[[dict], Iterable[str]]] = {PRETRAIN_FILE: _pretrain}
    if attribute_file := GENERATED_LAYOUTS[manifest["layout"]].dataset.attribute_file:
        files[attribute_file] = _attributes
    for split in (split for split, count in manifest["ids"].items() if count):
        for language in languages:
            name = multilingual.file_name(split, language)
            files[name] = partial(_translations, split=split, language=language)
    return files


def _pretrain(manifest: dict) -> Iterator[str]:
    return _json_list(
        {"image": f"imgs/{entry['file_path']}", "caption": entry["captions"]}
        for entry in _entries(manifest, "train")
    )


def _attributes(manifest: dict) -> Iterator[str]:
    yield f"{{{json.dumps(ATTRIBUTE_SOURCE)}: {json.dumps('true attributes, synth_pedes')}"
    for split in manifest["ids"]:
        yield f",\n{json.dumps(split)}: "
        yield from _json_list(_entries(manifest, split))
    yield "}\n"


def _translations(manifest: dict, *, split: str, language: str) -> Iterator[str]:
    return _json_list(
        {"file_path": photo.path, "id": person.person_id, "captions": photo.captions}
        for person in people(manifest)
        if person.split == split
        for photo in photographs(manifest, person, language)[1]
    )


def _entries(manifest: dict, split: str) -> Iterator[dict]:
    """One per (image, caption), as in the authors' file."""
    entry = GENERATED_LAYOUTS["cuhk_pedes"].entry
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
