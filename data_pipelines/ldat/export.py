"""Writes {split}_reid_{language}.json beside the source's file, in its order and with its ids."""

import collections
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipelines.datasets import multilingual
from data_pipelines.ldat import json_list, outcome
from data_pipelines.ldat.work import Work

_RECORD = "exported.json"


def export(work: Work) -> dict[Path, collections.Counter[str]]:
    """Writes the file of every split; per file, how many captions have which status.

    Files of somebody else are never replaced, those of an earlier export are. Where the source
    came from the official annotation file, the source's file is written, too.

    Raises:
      ValueError: a caption has no translation, or a file is in the way; nothing is written then.
    """
    targets = {split: _target(work, split, work.target) for split in work.source.files}
    sources = {split: _target(work, split, work.source_language) for split in work.source.derived}
    _refuse_others_files(work, [*targets.values(), *sources.values()])
    drafts = {split: work.folder / f"draft_{path.name}" for split, path in targets.items()}
    try:
        counts = _write_drafts(work, drafts)
        _check(work, drafts)
        # Before the files: an export that is killed in between knows them for its own.
        known = _known(work) | {
            _digest(p) for p in (*drafts.values(), *work.source.derived.values())
        }
        json_list.write(work.folder / _RECORD, sorted(known))
        for split, path in sources.items():
            json_list.write(path, work.source.entries(split))
        for split, path in targets.items():
            json_list.write(path, json_list.read(drafts[split]))  # it may be on another disk
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
    return {targets[split]: count for split, count in counts.items()}


def _refuse_others_files(work: Work, paths: list[Path]) -> None:
    ours = _known(work)
    for path in paths:
        if path.exists() and _digest(path) not in ours:
            raise ValueError(
                f"{path} exists and was not written by this job, or was changed since; move it "
                "away, or choose another folder with --config.output"
            )


def _write_drafts(work: Work, drafts: dict[str, Path]) -> dict[str, collections.Counter[str]]:
    """Raises ValueError if a caption has no translation."""
    counts = {split: collections.Counter[str]() for split in drafts}
    with outcome.Finals(work, outcome.threshold(work)) as finals:
        for split, draft in drafts.items():
            json_list.write(draft, _entries(work, split, finals, counts[split]))
    if missing := sum(count["missing"] for count in counts.values()):
        raise ValueError(
            f"{missing} captions have no translation; run translate again, or fill them in in the "
            "sheet of review"
        )
    return counts


def _entries(
    work: Work, split: str, finals: outcome.Finals, count: collections.Counter[str]
) -> Iterator[dict[str, Any]]:
    entries = work.source.entries(split)
    for entry in tqdm(entries, desc=f"export {split}", leave=False, disable=None):
        ended = [finals(caption) for caption in work.source.captions(split, entry)]
        count.update(final.status for final in ended)
        captions = [final.text for final in ended]
        yield {"file_path": entry["file_path"], "id": entry["id"], "captions": captions}


def _check(work: Work, targets: dict[str, Path]) -> None:
    """Compares entry by entry with the source, as `python -m data_pipelines.check` does."""
    for split, path in targets.items():
        files = {work.source_language: str(work.source.files[split]), work.target: str(path)}
        pairs = zip(work.source.entries(split), json_list.read(path), strict=True)
        for index, (here, there) in enumerate(pairs):
            entries = {work.source_language: [here], work.target: [there]}
            problems = list(multilingual.alignment_problems(files, entries))
            if problems or len(here["captions"]) != len(there["captions"]):
                raise ValueError(f"{path}: entry {index} is not that of the source: {problems}")


def _target(work: Work, split: str, language: str) -> Path:
    """Where the file of a split goes: beside the source's, or into --config.output."""
    name = multilingual.file_name(split, language)
    if work.output:
        return work.output / name
    if split in work.source.derived:
        return work.source.directory / name
    return work.source.files[split].with_name(name)


def _known(work: Work) -> set[str]:
    """SHA-256 of every file that this job has exported."""
    path = work.folder / _RECORD
    return set(json_list.read(path)) if path.exists() else set()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
