"""Writes a generated data set to disk: people in parallel, one annotation entry at a time.

The data set appears under its final name only when it is complete. Memory does not grow with the
number of people, and the same parameters give byte-identical files on any number of processes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from data_pipelines.synth_pedes import extra_files
from data_pipelines.synth_pedes.layouts import GENERATED_LAYOUTS, GeneratedLayout
from data_pipelines.synth_pedes.people import Person, people, photographs
from data_pipelines.synth_pedes.renderer import render
from tipr_jax.languages import language_name

GENERATOR_VERSION = 1  # raise when the same parameters would give other files
MANIFEST = "manifest.json"
_IN_PROCESS_IMAGES = 300  # fewer images than this are not worth starting processes for


def generate(
    root: str | os.PathLike,
    layout: str = "cuhk_pedes",
    *,
    train_ids: int = 1000,
    val_ids: int = 50,
    test_ids: int = 100,
    images_per_id: int | None = None,
    height: int = 192,
    seed: int = 0,
    languages: Sequence[str] = (),
    overwrite: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Generates `root`/CUHK-PEDES (or ICFG-PEDES, RSTPReid) unless it is already there.

    Args:
      root: directory that will contain the data set's own directory.
      layout: cuhk_pedes | icfg_pedes | rstp_reid.
      train_ids, val_ids, test_ids: people per split (icfg_pedes has no val split).
      images_per_id: images of each person, from different cameras; default: as the real data set.
      height: mean image height in pixels; widths are between height/3 and height/2.4.
      seed: another seed gives other people, cameras and words.
      languages: en, zh, fr, de or some of them: files {split}_reid_{language}.json besides, also
        for data that is already there.
      overwrite: replace a generated data set that has other parameters.
      workers: processes; default: one per core.
      progress: show a progress bar.

    Returns:
      The data set's directory.

    Raises:
      ValueError: a parameter is out of range, or an unknown language.
      FileExistsError: the directory holds a data set with other parameters, or one that this
        generator did not write (which is never replaced).
    """
    languages = tuple(map(language_name, languages))
    spec = _check(layout, train_ids, val_ids, test_ids, images_per_id, height)
    counts = {"train": train_ids, "val": val_ids, "test": test_ids}
    manifest = {
        "generator": "synth_pedes", "version": GENERATOR_VERSION, "layout": layout,
        "ids": {split: counts[split] for split in spec.splits},
        "images_per_id": images_per_id or spec.images_per_id, "height": height, "seed": seed,
    }  # fmt: skip
    target = Path(root) / spec.directory
    if _is_done(target, manifest, overwrite):
        if os.access(target, os.W_OK):  # data from before these files existed or were asked for
            extra_files.write_missing(target, manifest, languages)
        return target
    partial_dir = _new_partial(target)
    try:
        _write(partial_dir, spec, manifest, workers or os.cpu_count() or 1, progress)
        extra_files.write_missing(partial_dir, manifest, languages)
        _publish(partial_dir, target, manifest, overwrite)
    finally:
        shutil.rmtree(partial_dir, ignore_errors=True)
    return target


def _check(layout, train_ids, val_ids, test_ids, images_per_id, height) -> GeneratedLayout:
    if layout not in GENERATED_LAYOUTS:
        raise ValueError(f"layout is {layout!r}; expected one of {', '.join(GENERATED_LAYOUTS)}")
    for name, value, least in (("train_ids", train_ids, 1), ("val_ids", val_ids, 0),
                               ("test_ids", test_ids, 0), ("height", height, 48),
                               ("images_per_id", images_per_id or 1, 1)):  # fmt: skip
        if value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}")
    return GENERATED_LAYOUTS[layout]


def _is_done(target: Path, manifest: dict, overwrite: bool) -> bool:
    """Whether `target` is what is asked for; raises if it is something else worth keeping."""
    if not target.exists():
        return False
    found = _read_manifest(target)
    if found is None:
        raise FileExistsError(
            f"{target} exists and was not written by synth_pedes, so it is never replaced; "
            "use another root"
        )
    if found == manifest:
        return True
    if not overwrite:
        changed = [k for k in manifest if found.get(k) != manifest[k]]
        was = ", ".join(f"{k} {found.get(k)} instead of {manifest[k]}" for k in changed)
        raise FileExistsError(
            f"{target} was generated with {was}; pass --overwrite (overwrite=True) to replace it, "
            "or use another root"
        )
    return False


def _read_manifest(directory: Path) -> dict | None:
    try:
        found = json.loads((directory / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    known = isinstance(found, dict) and found.get("generator") == "synth_pedes"
    return found if known else None


def _new_partial(target: Path) -> Path:
    """A fresh directory beside `target`; those of processes that were killed are removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.partial-"
    for stale in target.parent.glob(prefix + "*"):
        if not _is_running(int(stale.name.removeprefix(prefix).split("-")[0])):
            shutil.rmtree(stale, ignore_errors=True)
    directory = target.parent / f"{prefix}{os.getpid()}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return directory


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _publish(partial_dir: Path, target: Path, manifest: dict, overwrite: bool) -> None:
    if target.exists() and _is_done(target, manifest, overwrite):
        return  # another process was faster with the same parameters
    if target.exists():
        old = partial_dir.with_name(partial_dir.name + "-replaced")
        target.rename(old)
        partial_dir.rename(target)
        shutil.rmtree(old)
    else:
        partial_dir.rename(target)


def _write(
    directory: Path, spec: GeneratedLayout, manifest: dict, workers: int, progress: bool
) -> None:
    work = partial(_make_person, str(directory), manifest)
    total = sum(manifest["ids"].values())
    bar = tqdm(
        total=total * manifest["images_per_id"], unit="img", disable=not progress,
        desc=f"generating {spec.directory}",
    )  # fmt: skip
    (directory / "imgs").mkdir()
    with bar, open(directory / spec.annotation_file, "w", encoding="utf-8") as file:
        separator = "[\n"
        for entries in _map(work, people(manifest), workers, total * manifest["images_per_id"]):
            for entry in entries:
                file.write(separator + json.dumps(entry, ensure_ascii=False))
                separator = ",\n"
            bar.update(len(entries))
        file.write("\n]\n")
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _map(work, everybody: Iterable[Person], workers: int, images: int) -> Iterator[list[dict]]:
    if workers == 1 or images < _IN_PROCESS_IMAGES:
        yield from map(work, everybody)
        return
    # Not fork: callers may have threads running (JAX, TensorFlow).
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(work, everybody, chunksize=8)


def _make_person(directory: str, manifest: dict, person: Person) -> list[dict]:
    """Renders and describes one person; returns the annotation entries."""
    spec = GENERATED_LAYOUTS[manifest["layout"]]
    identity, photos = photographs(manifest, person)
    entries = []
    for photo in photos:
        path = Path(directory, "imgs", photo.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(render(identity, photo.view))
        entries.append(spec.entry(person.split, person.person_id, photo.path, photo.captions))
    return entries
