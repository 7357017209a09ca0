"""Checks a data set before training: `python -m data_pipelines.check --name=cuhk_pedes --root=DIR`.

With `--name=manifest` it checks a table of your own photos (`data_pipelines.manifest`). With
`--languages=en,zh` it checks `{split}_reid_{language}.json` instead of the official file.
Prints counts per split and every problem found; exits with 1 if there is one, with 2 if there is
no data set to check. Opens every image: expect some 500 images/s per core.
"""

if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()

import collections
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

from data_pipelines import check_entries, manifest
from data_pipelines.check_entries import SHOWN_PER_KIND, note
from data_pipelines.datasets import annotations, multilingual
from data_pipelines.datasets.annotation_file import empty_captions, read_entries
from data_pipelines.datasets.layouts import LAYOUTS, Counts, get_layout
from data_pipelines.datasets.split import SPLITS
from data_pipelines.manifest.load import read_manifest
from tipr_jax import command_line
from tipr_jax.languages import run_languages
from tipr_jax.text import Tokenizer, load_tokenizer


@dataclasses.dataclass
class CheckReport:
    """What a check found. `str(report)` is the printed table."""

    name: str
    root: str
    counts: dict[str, Counts]  # split, or "split language"
    problems: dict[str, list[str]]  # kind -> one line each; these make the check fail
    notes: dict[str, list[str]]  # kind -> one line each; worth knowing, harmless for training

    @property
    def ok(self) -> bool:
        """No problem was found."""
        return not self.problems

    def __str__(self) -> str:
        lines = [f"{self.name} in {self.root}", *_count_table(self.name, self.counts)]
        for word, findings in (("PROBLEM", self.problems), ("note", self.notes)):
            for kind, details in findings.items():
                lines.append(f"{word}: {kind}: {len(details)}")
                lines += [f"    {detail}" for detail in details[:SHOWN_PER_KIND]]
                if len(details) > SHOWN_PER_KIND:
                    lines.append(f"    ... and {len(details) - SHOWN_PER_KIND} more")
        total = sum(len(details) for details in self.problems.values())
        lines.append("OK: no problems" if self.ok else f"FAILED: {total} problems")
        return "\n".join(lines)


def check_dataset(
    name: str,
    root: str,
    languages: Sequence[str] = (),
    *,
    reader: tuple[Tokenizer, int] | None = None,
    image_root: str = "",
) -> CheckReport:
    """Checks annotations and every image of a data set, with a progress bar on a terminal.

    Whatever would stop training, evaluation or the report is a problem here.

    Args:
      name: as in `annotations.load_dataset`, or "manifest".
      root: as in `annotations.load_dataset`; of a manifest its file or folder.
      languages: as in `annotations.load_dataset`.
      reader: a model's tokenizer and text length; captions that it does not read to the end are
        counted.
      image_root: where the paths of a manifest start; "": at its folder.

    Raises:
      FileNotFoundError: there is no such data set.
      ValueError: the annotation file as a whole is not readable.
    """
    languages = run_languages(languages)
    problems: dict[str, list[str]] = collections.defaultdict(list)
    notes: dict[str, list[str]] = collections.defaultdict(list)
    if name == manifest.NAME:
        path_key, by_language = "file", _read_manifest(root, languages, image_root, problems, notes)
    elif languages:
        directory, image_root = annotations.find_directory(name, root)
        path_key, by_language = "file_path", _read_languages(directory, languages, problems, notes)
    else:
        annotation_file, image_root = annotations.find_files(name, root)
        path_key = get_layout(name).path_key
        by_language = {"": _read_official(name, annotation_file, problems, notes)}
    entries = next(iter(by_language.values()))  # of the source
    check_entries.find_empty_splits(entries, problems)
    check_entries.find_images_of_several_persons(entries, path_key, notes)
    if reader:
        for described in by_language.values():
            check_entries.find_cut_captions(described, reader, notes)
    seen = check_entries.read_images(entries, path_key, image_root, problems)
    check_entries.find_duplicate_images(entries, path_key, seen, problems, notes)
    check_entries.find_shared_captions(entries, notes)
    if name == manifest.NAME:
        check_entries.find_look_alikes(entries, path_key, seen, notes)
    else:  # a manifest with a person in two splits is refused
        check_entries.find_shared_persons(entries, notes)
    counts = {
        f"{split} {language}".strip(): _count(described, split)
        for split in SPLITS
        for language, described in by_language.items()
    }
    if languages:
        counts = {row: count for row, count in counts.items() if any(count)}
    if _is_real(name, counts) and not all(_as_published(name, *item) for item in counts.items()):
        notes["counts differ from the published ones"].append("see the table")
    return CheckReport(name, os.path.abspath(root), counts, dict(problems), dict(notes))


def _read_manifest(
    root: str,
    languages: tuple[str, ...],
    image_root: str,
    problems: dict[str, list[str]],
    notes: dict[str, list[str]],
) -> dict[str, list[dict[str, Any]]]:
    """The sound pictures of a manifest as entries by language, source first."""
    read = read_manifest(root, languages, image_root=image_root)
    problems |= read.findings.problems
    notes |= read.findings.notes
    return {
        language: [
            {
                "file": picture.path,
                "box": picture.box,
                "split": picture.split,
                "id": picture.person or place,
                "captions": [texts[number] for texts in read.captions(picture)],
            }
            for place, picture in enumerate(read.pictures)
        ]
        for number, language in enumerate(read.languages)
    }


def _read_official(
    name: str,
    annotation_file: str,
    problems: dict[str, list[str]],
    notes: dict[str, list[str]],
) -> list[dict[str, Any]]:
    """The sound entries of an official annotation file."""
    layout, entries = get_layout(name), []
    for index, entry in enumerate(read_entries(annotation_file)):
        if problem := annotations.entry_problem(layout, entry):
            problems["bad annotation entry"].append(f"{annotation_file}: entry {index}: {problem}")
        else:
            entries.append(entry)
            note(notes, "empty captions", empty_captions([(index, entry)]))
    if told := annotations.number_persons(layout, entries):
        notes["persons are numbered anew"].append(told)
    return entries


def _read_languages(
    directory: str,
    languages: tuple[str, ...],
    problems: dict[str, list[str]],
    notes: dict[str, list[str]],
) -> dict[str, list[dict[str, Any]]]:
    """The sound entries of all splits by language, source first, with the field "split" added."""
    sound: dict[str, list[dict[str, Any]]] = {language: [] for language in languages}
    for split in SPLITS:
        files = multilingual.find_files(directory, split, languages)
        if not files:
            continue
        entries = {language: read_entries(path) for language, path in files.items()}
        names = {language: os.path.basename(path) for language, path in files.items()}
        if found := list(multilingual.alignment_problems(names, entries)):
            problems["bad entry, or not that of the source"] += found
        elif found := _unpaired(names, entries):
            notes["captions of different number, the last ones unused"] += found
        for language, described in entries.items():
            good = [(i, e) for i, e in enumerate(described) if not multilingual.entry_problem(e)]
            empty = [f"{names[language]}: {line}" for line in empty_captions(good)]
            note(notes, "empty captions", empty)
            sound[language] += [entry | {"split": split} for _, entry in good]
    return sound


def _unpaired(names: dict[str, str], entries: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One line per image that has more captions in one language than in another."""
    lines = []
    for index, same in enumerate(zip(*entries.values(), strict=True)):
        numbers = [len(entry["captions"]) for entry in same]
        if len(set(numbers)) > 1:
            found = zip(numbers, names.values(), strict=True)
            lines.append(f"entry {index}: " + ", ".join(f"{n} in {file}" for n, file in found))
    return lines


def _count(entries: list[dict[str, Any]], split: str) -> Counts:
    chosen = [entry for entry in entries if entry["split"] == split]
    captions = sum(len(entry["captions"]) for entry in chosen)
    return Counts(len({entry["id"] for entry in chosen}), len(chosen), captions)


def _is_real(name: str, counts: dict[str, Counts]) -> bool:
    """Whether the published counts are worth comparing with (not for small or generated data)."""
    images = max((count.images for count in counts.values()), default=0)
    published = {} if name == manifest.NAME else get_layout(name).published
    return bool(published) and 0.5 < images / published["train"].images < 2


def _published(name: str, row: str) -> Counts:
    """The published counts for a row of the table, "split" or "split language"."""
    return get_layout(name).published[row.split()[0]]


def _as_published(name: str, row: str, counts: Counts) -> bool:
    published = _published(name, row)
    return counts[1:] == published[1:] and published.persons in (None, counts.persons)


def _count_table(name: str, counts: dict[str, Counts]) -> list[str]:
    width = max([7, *(len(row) + 1 for row in counts)])
    header = f"{'split':<{width}}{'persons':>9}{'images':>9}{'captions':>10}"
    published = _is_real(name, counts)
    lines = [header + ("   published (persons/images/captions)" if published else "")]
    for split, (persons, images, captions) in counts.items():
        line = f"{split:<{width}}{persons:>9}{images:>9}{captions:>10}"
        if published:
            known = ("-" if count is None else str(count) for count in _published(name, split))
            line += "   " + "/".join(known)
        lines.append(line)
    return lines


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    directories = " or ".join(f"{layout.directory}/" for layout in LAYOUTS.values())
    parser = command_line.Parser(
        prog="python -m data_pipelines.check",
        description=__doc__,
        example="python -m data_pipelines.check --name=cuhk_pedes --root=data",
    )
    choices = (*LAYOUTS, manifest.NAME)
    parser.add_argument("--name", choices=choices, default="cuhk_pedes", help="of the data set")
    parser.add_argument(
        "--root",
        default=os.environ.get("TIPR_DATA", "data"),
        help=f"directory with {directories}, or a manifest (default: $TIPR_DATA or data)",
    )
    parser.add_argument(
        "--image_root", default="", help="where the paths of a manifest start (default: its folder)"
    )
    parser.add_argument(
        "--languages",
        default="",
        metavar="en,zh,...",
        help="check the captions in these languages, source first: {split}_reid_{language}.json "
        "(default: the official annotation file)",
    )
    options = parser.parse_args(argv)
    command_line.tolerant_output()
    try:
        languages = [name for name in options.languages.split(",") if name]
        # The published IRRA's reader; other vocabularies are known to a run alone (--dry_run).
        reader = None if languages else (load_tokenizer("clip_bpe"), 77)
        report = check_dataset(
            options.name,
            options.root,
            languages,
            reader=reader,
            image_root=options.image_root,
        )
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
