"""The captions to translate: {split}_reid_{language}.json, else the official annotation file.

The first streams, the official file is read as a whole and becomes {split}_reid_{language}.json in
the job's folder, from where it streams and is exported beside the translations.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.datasets import annotations, multilingual
from data_pipelines.datasets.annotation_file import read_entries
from data_pipelines.datasets.layouts import get_layout
from data_pipelines.ldat import json_list
from data_pipelines.ldat.interfaces import Caption


class Source:
    """The splits of a data set in one language.

    folder: where the official file is written split by split, if it is needed.

    Raises:
      FileNotFoundError: there is no such data set, or it has no captions in the language.
      ValueError: an unknown name, or the official annotation file is unreadable.
    """

    def __init__(self, name: str, root: str, language: str, splits: Sequence[str], folder: Path):
        directory, images = annotations.find_directory(name, root)
        self.directory, self.images = Path(directory), Path(images)
        self.language = language
        self.derived: dict[str, Path] = {}  # files made here of the official one, by split
        self.files: dict[str, Path] = {}
        for split in splits:
            try:
                found = multilingual.find_files(directory, split, (language,))
            except FileNotFoundError:
                if language != "en" or not get_layout(name).annotation_files:
                    raise
                found = {}
            if found:
                self.files[split] = Path(found[language])
        missing = [split for split in splits if split not in self.files]
        if language == "en" and missing and get_layout(name).annotation_files:
            self._derive(name, root, missing, folder)

    def entries(self, split: str) -> Iterator[dict[str, Any]]:
        """{file_path, id, captions} in the order of the file.

        Raises:
          ValueError: an entry of another form; the message names it.
        """
        path = self.files[split]
        for index, entry in enumerate(json_list.read(path)):
            if problem := multilingual.entry_problem(entry):
                raise ValueError(f"{path}: entry {index}: {problem}")
            yield entry

    def captions(self, split: str, entry: dict[str, Any]) -> list[Caption]:
        """The captions of an entry; an empty one, which has no translation, is among them."""
        return [Caption(split, entry["file_path"], entry["id"], text) for text in entry["captions"]]

    def __iter__(self) -> Iterator[Caption]:
        """Every caption that says something, split by split, in the order of the files."""
        for split in self.files:
            for entry in self.entries(split):
                yield from (c for c in self.captions(split, entry) if c.text.strip())

    def _derive(self, name: str, root: str, splits: list[str], folder: Path) -> None:
        layout = get_layout(name)
        annotation_file, _ = annotations.find_files(name, root)
        paths = {s: folder / multilingual.file_name(s, self.language) for s in splits}
        changed = Path(annotation_file).stat().st_mtime_ns
        if any(not p.exists() or p.stat().st_mtime_ns <= changed for p in paths.values()):
            entries = read_entries(annotation_file)
            for index, entry in enumerate(entries):
                if problem := annotations.entry_problem(layout, entry):
                    raise ValueError(f"{annotation_file}: entry {index}: {problem}")
            annotations.number_persons(layout, entries)
            folder.mkdir(parents=True, exist_ok=True)
            for split, path in paths.items():
                rows = [
                    {"file_path": e[layout.path_key], "id": e["id"], "captions": e["captions"]}
                    for e in entries
                    if e["split"] == split
                ]
                if rows:
                    json_list.write(path, rows)
        self.derived = {split: path for split, path in paths.items() if path.exists()}
        self.files |= self.derived
        self.files = {s: self.files[s] for s in ("train", "val", "test") if s in self.files}
