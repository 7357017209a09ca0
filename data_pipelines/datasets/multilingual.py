"""Captions in several languages: one file per split and language, aligned entry by entry.

`{split}_reid_{language}.json`, in the directory of the data set or in its annos/, is a list of
{file_path, id, captions}. Entry k of every language describes the same image, and caption i of the
entry is a translation of caption i in every other language. This is the form in which the authors
of Bi-IRRA publish their captions.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_pipelines.datasets.annotation_file import content_problem, read_entries
from tipr_jax.languages import LANGUAGES

# How file names spell a language, where they differ from us; the authors' spelling comes first.
FILE_NAMES = {"zh": ("ch", "zh")}
FOLDER = "annos"  # in the directory of the data set, where the authors keep the files
HOMEPAGE = "https://huggingface.co/datasets/zzhugging/Bi-IRRA"
FIELDS = ("file_path", "id", "captions")
OPTIONAL_SPLITS = ("val",)


def file_name(split: str, language: str) -> str:
    """The name that the authors give to the file of a split in a language."""
    return _file_names(split, language)[0]


def find_files(directory: str, split: str, languages: Sequence[str]) -> dict[str, str]:
    """Paths of a split's files by language; {} if the split may be missing and no file exists.

    Raises:
      FileNotFoundError: a language has no file.
    """
    files = {name: path for name in LANGUAGES if (path := _find(directory, split, name))}
    if split in OPTIONAL_SPLITS and not files.keys() & set(languages):
        return {}
    for name in languages:
        if name not in files:
            expected = " or ".join(_file_names(split, name))
            found = list(files) or ["no language"]
            raise FileNotFoundError(
                f"{directory} has no {split} captions in {name}: expected {expected} there or in "
                f"{FOLDER}/, found {', '.join(found)}; add the file (the authors' are at "
                f"{HOMEPAGE}), or choose among those found with --config.data.source and "
                "--config.data.target"
            )
    return {name: files[name] for name in languages}


def read_aligned(files: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Entries of every language, the source first; entry k of each is about the same image.

    Raises:
      ValueError: a file has another form, or describes other images than the source's file; the
        message names the entry.
    """
    entries = {name: read_entries(path) for name, path in files.items()}
    for problem in alignment_problems(files, entries):
        raise ValueError(problem)
    return entries


def alignment_problems(
    files: Mapping[str, str], entries: Mapping[str, Sequence[Any]]
) -> Iterator[str]:
    """One line per entry that is wrong or not the same as the source's, and per wrong length."""
    (source, *targets) = files
    for name, path in files.items():
        for index, entry in enumerate(entries[name]):
            if problem := entry_problem(entry):
                yield f"{path}: entry {index}: {problem}"
    first = os.path.basename(files[source])
    for name in targets:
        found, expected = len(entries[name]), len(entries[source])
        if found != expected:
            yield (
                f"{files[name]}: has {found} entries, but {first} has {expected}; entry k of every "
                "language must describe the same image"
            )
        pairs = zip(entries[source], entries[name], strict=False)
        for index, (source_entry, entry) in enumerate(pairs):
            if problem := _difference(source_entry, entry, first):
                yield f"{files[name]}: entry {index}: {problem}"


def entry_problem(entry: Any) -> str | None:
    """Says what is wrong with one entry by itself, in one line; None if it is fine."""
    if not isinstance(entry, dict):
        return f"expected an object with {', '.join(FIELDS)}; found {type(entry).__name__}"
    for key in FIELDS:
        if key not in entry:
            return f"has no {key!r}; expected an object with {', '.join(FIELDS)}"
    return content_problem(entry, "file_path")


def pair_captions(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Captions of one image in each language, paired by order: [(source, target, ...), ...].

    Captions beyond the shortest list are dropped, as in the released Bi-IRRA.
    """
    return list(zip(*(entry["captions"] for entry in entries), strict=False))


def _difference(source_entry: Any, entry: Any, source_file: str) -> str | None:
    for key in ("file_path", "id"):
        try:
            want, found = source_entry[key], entry[key]
        except (TypeError, KeyError):
            return None  # `entry_problem` reports it
        if found != want:
            return (
                f"{key} is {found!r}, but {source_file} has {want!r} there; entry k of every "
                "language must describe the same image, in the order of the source"
            )
    return None


def _file_names(split: str, language: str) -> list[str]:
    return [f"{split}_reid_{name}.json" for name in FILE_NAMES.get(language, (language,))]


def _find(directory: str, split: str, language: str) -> str | None:
    folders = (directory, os.path.join(directory, FOLDER))
    names = _file_names(split, language)
    paths = [os.path.join(folder, name) for folder in folders for name in names]
    return next((path for path in paths if os.path.isfile(path)), None)
