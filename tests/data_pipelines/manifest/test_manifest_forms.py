"""The many ways in which people write one and the same table, all read alike."""

import codecs
import json

import numpy as np
import pytest

from data_pipelines.manifest.load import load_manifest, read_manifest

ROWS = [
    ("photos/0.png", 'A man, "tall", in Größe 5.', "007", "train"),
    ("photos/1.png", "A woman.", "7", "train"),
    ("photos/2.png", "穿红色外套的男人", "007", "train"),
    ("photos/3.png", "A child; with a | bar.", "x", "val"),
    ("photos/4.png", "Somebody.", "y y", "test"),
]
COLUMNS = ("file", "caption", "person_id", "split")


def csv_of(delimiter: str = ",", end: str = "\n", header=COLUMNS) -> str:
    quoted = [['"' + value.replace('"', '""') + '"' for value in row] for row in ROWS]
    return end.join(delimiter.join(row) for row in [header, *quoted]) + end


OBJECTS = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
JSON_LINES = "\n".join(json.dumps(entry) for entry in OBJECTS)
FORMS = {
    "commas": csv_of(),
    "semicolons": csv_of(";"),
    "tabs": csv_of("\t"),
    "bars": csv_of("|"),
    "windows line ends": csv_of(end="\r\n"),
    "old mac line ends": csv_of(end="\r"),
    "mixed line ends": csv_of().replace("\n", "\r\n", 3),
    "empty lines": "\n\n" + csv_of().replace("\n", "\n\n"),
    "no last line end": csv_of().rstrip(),
    "byte order mark": codecs.BOM_UTF8 + csv_of().encode(),
    "UTF-16": csv_of("\t").encode("utf-16"),
    "UTF-16 big-endian": codecs.BOM_UTF16_BE + csv_of().encode("utf-16-be"),
    "UTF-16 without a mark": csv_of().encode("utf-16-le"),
    "UTF-32": csv_of().encode("utf-32"),
    "excel's sep line": "sep=;\r\n" + csv_of(";", "\r\n"),
    "delimiter at line ends": csv_of().replace("\n", ",\n"),
    "spaces after commas": csv_of(", "),
    "header in capitals": csv_of(header=("File", "CAPTION", "Person ID", "Split ")),
    "usual other names": csv_of(header=("image_path", "text", "id", "subset")),
    "back-slashes": csv_of().replace("photos/", "photos\\"),
    "dots in paths": csv_of().replace("photos/", "./photos/../photos/"),
    "spaces around paths": csv_of().replace('"photos/0.png"', '" photos/0.png  "'),
    "splits spelt otherwise": csv_of().replace('"train"', '"Training"').replace('"val"', '"dev"'),
    "a caption of two lines": csv_of().replace("A woman.", "A\r\n woman."),
    "JSON": json.dumps(OBJECTS),
    "JSON, indented, with a mark": codecs.BOM_UTF8 + json.dumps(OBJECTS, indent=1).encode(),
    "JSON lines": JSON_LINES,
    "JSON lines, empty ones between": JSON_LINES.replace("\n", "\r\n\r\n"),
    "JSON with lists": json.dumps(
        [entry | {"caption": [entry["caption"]], "extra": None} for entry in OBJECTS]
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_are_read_alike(form, write, agree, tmp_path):
    path = write(FORMS[form], "any name.txt")
    assert agree(path) is None
    splits = load_manifest(path)
    train = splits["train"]
    assert train.caption == tuple(row[1] for row in ROWS[:3])
    assert train.image_path == tuple(str(tmp_path / row[0]) for row in ROWS[:3])
    # Leading zeros count: 007 is not 7.
    assert train.image_person_id.tolist() == [0, 1, 0] and train.num_persons == 2
    assert train.caption_image_id.dtype == train.image_person_id.dtype == np.int32
    assert [splits[name].caption for name in ("val", "test")] == [(ROWS[3][1],), (ROWS[4][1],)]


def test_what_was_read_otherwise_is_said(write):
    path = write(FORMS["back-slashes"].replace('"train"', '"Train"'))
    notes = read_manifest(path).findings.notes
    assert notes["paths with \\ are read with /"] == [f"{path} line 2, 3, 4, 5, 6"]
    assert notes["splits called 'Train' are read as 'train'"] == [f"{path} line 2, 3, 4"]
    (zeros,) = notes["ids that differ in leading zeros alone are different people"]
    assert zeros == f"{path} line 4: '007' and '7'"


def test_line_numbers_count_lines_of_the_file(write, lines):
    text = 'file,caption\nphotos/0.png,"two\nlines"\n\nphotos/none.png,x\n' + lines()
    (problem,) = read_manifest(write(text)).findings.problems["missing file"]
    assert " line 5: " in problem


def test_rows_and_columns_about_one_photo_add_up(write):
    text = "file,caption,caption_2,person_id,split\n"
    text += (
        "photos/0.png,one,two,a,train\nphotos/1.png,other,,b,train\n./photos/0.png,three,one,,\n"
    )
    path = write(text)
    train = load_manifest(path)["train"]
    assert train.caption == ("one", "two", "three", "other")
    assert train.caption_image_id.tolist() == [0, 0, 0, 1] and len(train.image_path) == 2
    notes = read_manifest(path).findings.notes
    assert notes["a caption that the picture has already is read once"] == [f"{path} line 4"]


def test_a_photo_without_a_caption_is_searched_among(write, lines):
    path = write("file,caption,split\n" + lines(3, ",train") + "photos/5.png,,test\n")
    test = load_manifest(path)["test"]
    assert len(test.image_path) == 1 and test.caption == ()
    with pytest.raises(ValueError, match="line 5: has no caption; write one"):
        load_manifest(path, empty_captions="error")


TRANSLATED = {
    "columns": "file,caption,caption_2,caption_zh,caption_zh_2\n"
    "photos/0.png,a,b,甲,乙\nphotos/1.png,c,d,,丁\nphotos/2.png,e,,戊,\n",
    "language before the number": "file,caption_en,caption_2_en,caption_zh,caption_2_ch\n"
    "photos/0.png,a,b,甲,乙\nphotos/1.png,c,d,,丁\nphotos/2.png,e,,戊,\n",
    "a column language": "file,caption,language\nphotos/0.png,a,en\nphotos/0.png,甲,ZH\n"
    "photos/0.png,b,en-US\nphotos/0.png,乙,zh_CN\nphotos/1.png,d,en\nphotos/1.png,丁,zh\n"
    "photos/2.png,e,en\nphotos/2.png,戊,ch\n",
}


@pytest.mark.parametrize("form", TRANSLATED)
def test_translations_are_paired(form, write, agree):
    path = write(TRANSLATED[form])
    assert agree(path, ("en", "zh")) is None
    splits = load_manifest(path, ("en", "zh")).values()
    pairs = {
        pair
        for split in splits
        for pair in zip(split.caption, split.translation["zh"], strict=True)
    }
    assert pairs == {("a", "甲"), ("b", "乙"), ("d", "丁"), ("e", "戊")}
    assert {split.language for split in splits} == {"en"}
    notes = read_manifest(path, ("en", "zh")).findings.notes
    unpaired = "captions without a translation are not read"
    assert (unpaired in notes) == (form != "a column language")
    # In one language the first one is read, and the others are named.
    alone = read_manifest(path)
    assert alone.findings.notes["languages that are not read"]
    read = {text for picture in alone.pictures for (text,) in alone.captions(picture)}
    assert {"a", "b", "d", "e"} <= read <= set("abcde")


def test_a_language_that_nobody_wrote(write, agree, lines):
    problem = agree(write("file,caption\n" + lines()), ("en", "fr"))
    assert problem and "no captions in 'fr'; add them as the column caption_fr" in problem
