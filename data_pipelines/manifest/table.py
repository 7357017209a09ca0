"""Reads a table: CSV, a JSON list of objects, or JSON lines; rows of text, whatever they mean."""

import codecs
import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from data_pipelines.manifest.findings import Findings

DELIMITERS = ",;\t|"
_MARKS = {  # byte order marks; UTF-32 before UTF-16, whose mark it begins with
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHER_FILES = {
    b"PK\x03\x04": "a workbook or a zip archive; save the table as CSV (Excel: 'CSV UTF-8')",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the table as 'CSV UTF-8'",
    b"PAR1": "a Parquet file; write it as CSV, for example by pandas' to_csv",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"\xff\xd8\xff": "a photo; give the table that lists the photos",
    b"\x89PNG": "a photo; give the table that lists the photos",
}
MAX_FIELD = 1_000_000  # characters; a quote that is never closed swallows the rest of a file
BAD = "bad line"  # kind of problem
Known = Callable[[Sequence[str]], int]  # how many names are those of columns


class Table(NamedTuple):
    """header: names of the columns. rows: (where it stands, a text per column)."""

    header: Sequence[str]
    rows: Iterator[tuple[int, Sequence[str]]]
    unit: str  # what the number of a row counts: "line", or "entry" of a JSON list, from 1


def read_table(path: str, known: Known, findings: Findings) -> Table:
    """Opens a table; rows that are no rows are found while they are read.

    Args:
      path: of the file.
      known: decides between the delimiters, by the names in the first line.
      findings: gets a problem for each bad row.

    Raises:
      ValueError: it is no text, is empty, or is another JSON than a list of objects.
    """
    with open(path, "rb") as file:
        data = file.read()
    encoding = _encoding(path, data)
    text = io.TextIOWrapper(io.BytesIO(data), encoding, newline="")  # shares the bytes
    start = text.read(4096).lstrip()[:1]
    text.seek(0)
    if not start:
        raise ValueError(f"{path}: empty; expected a table that begins with the line file,caption")
    if start in ("[", "{"):
        return _json_table(path, text.read(), known, findings)
    return _csv_table(path, text, known, findings)


def _encoding(path: str, data: bytes) -> str:
    """The encoding of a text; all of it was decoded once."""
    for signature, what in _OTHER_FILES.items():
        if data.startswith(signature):
            raise ValueError(f"{path}: {what}")
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "")
    if not encoding and b"\0" in data:
        even, odd = data[:1000:2].count(0), data[1:1000:2].count(0)
        few, many = sorted((even, odd))
        if many < 200 or few > many / 10:  # not as UTF-16 writes Latin letters
            line = _line(data[: data.index(0)])
            raise ValueError(
                f"{path} line {line}: a byte of value 0, which no text has; the file is damaged or "
                "no table, write it anew"
            )
        encoding = "utf-16-le" if odd > even else "utf-16-be"
    try:
        for _ in codecs.iterdecode(_pieces(data), encoding or "utf-8"):
            pass
    except UnicodeDecodeError:
        _complain(path, data, encoding or "utf-8")
    return encoding or "utf-8"


def _pieces(data: bytes) -> Iterator[bytes]:
    view = memoryview(data)
    for start in range(0, len(data), 2**20):
        yield bytes(view[start : start + 2**20])


def _complain(path: str, data: bytes, encoding: str) -> None:
    """Raises ValueError that names the first line with bytes that are not in the encoding."""
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        line = _line(data[: error.start])
        around = data[max(0, error.start - 10) : error.start + 10].decode("latin-1")
        raise ValueError(
            f"{path} line {line}: not encoded in {encoding.upper()} ({around!r} in Latin-1); save "
            "the file as UTF-8 (Excel: 'CSV UTF-8')"
        ) from None


def _line(before: bytes) -> int:
    """Number of the line that follows these bytes."""
    return len((before + b"x").splitlines())


# --------------------------------------------------------------------------------------- CSV


def _csv_table(path: str, text: io.TextIOWrapper, known: Known, findings: Findings) -> Table:
    skipped = _skip_to_header(text)
    start = text.tell()
    first = text.readline()
    delimiter = max(DELIMITERS, key=lambda d: known(next(csv.reader([first], delimiter=d), [])))
    text.seek(start)
    csv.field_size_limit(MAX_FIELD)
    reader = csv.reader(text, delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        header = [name.strip() for name in next(reader)]
    except csv.Error as error:
        raise ValueError(f"{path} line {skipped + 1}: {_csv_error(error)}") from None
    while header and not header[-1]:  # a delimiter at the end of each line
        header.pop()
    return Table(header, _csv_rows(path, reader, len(header), skipped, findings), "line")


def _skip_to_header(text: io.TextIOWrapper) -> int:
    """Skips empty lines and Excel's `sep=;`; returns how many."""
    for number in itertools.count():
        place = text.tell()
        line = text.readline().strip()
        if line and not (line.lower().startswith("sep=") and len(line) == 5):
            text.seek(place)
            return number
    raise AssertionError("a text with a character in it has a line")


def _csv_rows(
    path: str, reader: Any, count: int, skipped: int, findings: Findings
) -> Iterator[tuple[int, Sequence[str]]]:
    line = reader.line_num
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:  # what follows would be guesses
            where = f"{path} line {skipped + line + 1}"
            findings.problems[BAD].append(f"{where}: {_csv_error(error)}")
            return
        if row is None:
            return
        number, line = skipped + line + 1, reader.line_num
        if len(row) != count and any(row):
            if not any(row[count:]) and len(row) > count:
                row = row[:count]
            else:
                findings.problems[BAD].append(
                    f"{path} line {number}: has {len(row)} values, the header has {count}; put "
                    'values with a delimiter in quotes, as in "a man, walking"'
                )
                continue
        if any(row):
            yield number, row


def _csv_error(error: csv.Error) -> str:
    """What the parser means."""
    if "field larger" in str(error) or "unexpected end" in str(error):
        return 'a quote (") is opened here and never closed; close it'
    return (
        f"not CSV ({error}); write quotes within a value twice and the whole value in quotes, as "
        'in "a so-called ""hoodie"""'
    )


# -------------------------------------------------------------------------------------- JSON


def _json_table(path: str, text: str, known: Known, findings: Findings) -> Table:
    try:
        read = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply; expected a list of objects") from None
    except ValueError as error:
        if text.lstrip().startswith("["):
            raise ValueError(
                f"{path}: not valid JSON ({error}); mend the list there, or write one object a line"
            ) from None
        return _as_table(path, "line", _json_lines(path, text, findings), known, findings)
    if isinstance(read, dict) and known([*read]) < 2:
        keys = ", ".join(itertools.islice(read, 5))
        raise ValueError(
            f"{path}: one JSON object with the keys {keys}; expected a list of objects, as in "
            '[{"file": "photos/1.jpg", "caption": "A man in a coat."}]'
        )
    entries = enumerate(read if isinstance(read, list) else [read], 1)
    return _as_table(path, "entry", entries, known, findings)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object with {twice!r} twice")
    return out


def _json_lines(path: str, text: str, findings: Findings) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(io.StringIO(text), 1):
        if line.strip():
            try:
                yield number, json.loads(line, object_pairs_hook=_object)
            except (ValueError, RecursionError) as error:
                findings.problems[BAD].append(
                    f"{path} line {number}: not valid JSON ({error}); mend or remove the line"
                )


def _as_table(
    path: str, unit: str, entries: Iterator[tuple[int, Any]], known: Known, findings: Findings
) -> Table:
    """A table with all names that any entry has."""
    flat: list[tuple[int, dict[str, str]]] = []
    names: dict[str, None] = {}
    for number, entry in entries:
        try:
            row = _flat(entry, known)
        except ValueError as error:
            findings.problems[BAD].append(f"{path} {unit} {number}: {error}")
            continue
        names.update(dict.fromkeys(row))
        flat.append((number, row))
    if not flat and findings.problems:
        raise ValueError(findings.problems[BAD][0])
    header = [*names]
    rows = ((number, [row.get(name, "") for name in header]) for number, row in flat)
    return Table(header, rows, unit)


def _flat(entry: Any, known: Known) -> dict[str, str]:
    """Values as texts; a list of captions becomes several columns, one of numbers a text."""
    if not isinstance(entry, dict):
        raise ValueError(f'expected an object, as in {{"file": ...}}; found {_short(entry)}')
    row: dict[str, str] = {}
    for name, value in entry.items():
        texts = isinstance(value, list) and value and all(isinstance(x, str) for x in value)
        if texts and known([f"{name}_2"]):
            row |= {name if k == 1 else f"{name}_{k}": x for k, x in enumerate(value, 1)}
        elif isinstance(value, list) and all(map(_is_number, value)):
            row[name] = ",".join(map(str, value))
        elif value is None or isinstance(value, str):
            row[name] = value or ""
        elif _is_number(value):
            row[name] = str(value)
        else:
            raise ValueError(f"{name} is {_short(value)}; expected a text, a number or a list")
    return row


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]} ..."
