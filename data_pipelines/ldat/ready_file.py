"""Translations that somebody has made already: a file of JSON lines.

  {"source": "A man in a red coat.", "translation": "一名穿红色大衣的男子。"}
  {"image": "cam_a/1.jpg", "source": "...", "translation": "..."}       for this image alone

A line with the image goes before one without; of equal lines the last counts.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.ldat.interfaces import Caption, Failure
from data_pipelines.ldat.journal import Lines, content_key


class FileTranslator:
    """A `Translator` that looks texts up. The file is read at the first call, not into memory.

    Raises:
      ValueError: no file is given, or it does not exist; at the first call: a line of another form.
    """

    def __init__(self, path: Path | None):
        if path is None or not path.is_file():
            raise ValueError(
                f"--config.file.path={path or ''}: expected a file of JSON lines with source and "
                "translation"
            )
        self._path = path
        self._lines: Lines | None = None
        with open(path, "rb") as file:
            self.settings: Mapping[str, Any] = {
                "sha256": hashlib.file_digest(file, "sha256").hexdigest()
            }

    def translate(self, captions: Sequence[Caption]) -> list[str | Failure]:
        """A `Failure` for a caption that the file lacks, or has with an empty translation."""
        if self._lines is None:
            self._lines = Lines(self._path, key_of=_key)
        return [self._find(self._lines, caption) for caption in captions]

    def _find(self, lines: Lines, caption: Caption) -> str | Failure:
        for image in (caption.image, None):
            record = lines.get(_key({"source": caption.text, "image": image}))
            if record and record["translation"].strip():
                return record["translation"].strip()
        return Failure(f"{self._path.name} has no translation of it")


def _key(record: Any) -> str:
    """Of (source, image). Raises TypeError or KeyError for a record of another form."""
    source, image = record["source"], record.get("image")
    if not isinstance(source, str) or not isinstance(record.get("translation", ""), str):
        raise TypeError(json.dumps(record))
    return content_key(source, image)
