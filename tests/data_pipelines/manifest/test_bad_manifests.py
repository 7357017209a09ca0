"""Whatever can be wrong with a manifest: check and training say file, line and remedy in one line.

Nothing is dropped silently; `agree` compares what the check and the training say.
"""

import json
import os
import re

import pytest
from PIL import Image

from data_pipelines.check import check_dataset
from data_pipelines.manifest.load import read_manifest

HEADER = "file,caption\n"


def with_row(row: str, header: str = HEADER.strip(), extra: str = "") -> str:
    good = "".join(f"photos/{i}.png,A man with {i} bags.{extra}\n" for i in range(5))
    return f"{header}\n{good}{row}\n"


OBJECTS = [{"file": f"photos/{i}.png", "caption": "x"} for i in range(5)]
SPLIT, BOX, ID = "file,caption,split", "file,caption,box", "file,caption,person_id"
# Kind -> (content, what the line says).
BAD = {
    "missing file": (with_row("photos/20.png,x"), "line 7: .*no such file; did you mean"),
    "case of a file name": (with_row("photos/5.PNG,x"), "line 7: .*did you mean .*photos/5.png"),
    "a folder as file": (with_row("photos,x"), "line 7: .*photos is a folder; write the path"),
    "empty file name": (with_row(",x"), "line 7: the column file is empty; write"),
    "windows path": (with_row(r"C:\Users\me\a.jpg,x"), "line 7: .*Windows computer; write it rel"),
    "network path": (with_row(r"\\server\a.jpg,x"), "line 7: .*Windows computer; write it rel"),
    "address": (with_row("https://x.org/a.jpg,x"), "line 7: .*is an address; download"),
    "absolute path that is not here": (with_row("/nowhere/a.jpg,x"), "line 7: /nowhere/a.jpg: no"),
    "path above, not there": (with_row("../a.jpg,x"), "line 7: .*a.jpg: no such file"),
    "comma without quotes": (
        with_row("photos/5.png,a man, tall"),
        "line 7: has 3 values, .*quotes",
    ),
    "too few values": (with_row("photos/5.png"), "line 7: has 1 values, the header has 2"),
    "quote never closed": (with_row('photos/5.png,"a man'), "line 7: a quote .* never closed; clo"),
    "text after a quote": (with_row('photos/5.png,"a" man'), "line 7: not CSV .*quotes within"),
    "zero byte": (with_row("photos/5.png,a\0man"), "line 7: a byte of value 0, .*write it anew"),
    "latin-1": (
        with_row("photos/5.png,Größe").encode("latin-1"),
        "line 7: not encoded in UTF-8 .*sa",
    ),
    "GBK": (with_row("photos/5.png,红色").encode("gbk"), "line 7: not encoded in UTF-8 .*save"),
    "half a UTF-16": (with_row("a,b").encode("utf-16")[:-1], "not encoded in UTF-16 .*save"),
    "excel workbook": (b"PK\x03\x04rest", "a workbook or a zip archive; save the table as CSV"),
    "old excel workbook": (b"\xd0\xcf\x11\xe0rest", "an old Excel workbook; save the table"),
    "parquet": (b"PAR1rest", "a Parquet file; write it as CSV"),
    "gzip": (b"\x1f\x8brest", "a gzip archive; unpack it"),
    "a photo": (b"\xff\xd8\xffrest", "a photo; give the table"),
    "empty": ("", "empty; expected a table"),
    "white space alone": (" \n\n", "empty; expected a table"),
    "header alone": (HEADER, "has no row below its header; expected one for each photo"),
    "no header": (with_row("", "photos/11.png,A woman."), "no column 'file', but: photos/11.png"),
    "misspelt caption": (
        with_row("", "file,captoin"),
        "'captoin' is unknown; did you mean 'caption'",
    ),
    "misspelt person_id": (
        with_row("", "file,caption,presonid", ",1"),
        "'presonid' is unknown; did you mean 'person_id'",
    ),
    "misspelt split": (with_row("", "file,caption,spilt", ",test"), "did you mean 'split'"),
    "no caption column": (with_row("", "file,remarks"), "no column 'caption', but: file, remarks"),
    "a column twice": (
        with_row("", "file,caption,caption", ",x"),
        "'caption' and 'caption' mean th",
    ),
    "two names of one column": (
        with_row("", "image,path,caption", ",x"),
        "'image' and 'path' mean the same; rename",
    ),
    "unknown language column": (
        with_row("", "file,caption,caption_it", ",x"),
        "language 'it' is unknown; use some of en, zh",
    ),
    "two forms of language": (
        with_row("", "file,caption,caption_zh,language", ",x,en"),
        "keep one of the two forms",
    ),
    "two forms of box": (
        with_row("", "file,caption,box,x,y,width,height", ",,1,1,1,1"),
        "keep one of the two forms",
    ),
    "unknown language": (
        with_row("photos/5.png,x,klingon", "file,caption,language", ",en"),
        "line 7: language 'klingon' is unknown; use",
    ),
    "unknown split": (
        with_row("photos/5.png,x,query", SPLIT, ",test"),
        "line 7: split is 'query'; ex",
    ),
    "split missing in a row": (
        with_row("photos/5.png,x,", SPLIT, ",train"),
        "line 7: has no split, bu",
    ),
    "train missing": (with_row("", SPLIT, ",test"), "no picture is in train; write train into"),
    "person in two splits": (
        "file,caption,person_id,split\nphotos/0.png,x,a,train\nphotos/1.png,x,a,test\n",
        "line 3: person 'a' is in test, but in train at 2; use one split, or two ids",
    ),
    "photo in two splits": (
        with_row("photos/0.png,x,test", SPLIT, ",train"),
        "line 7: split is 'test', but 'train' for the same picture at 2; correct",
    ),
    "photo of two people": (
        "file,caption,person_id\nphotos/0.png,x,a\nphotos/0.png,y,b\n" + "photos/1.png,z,c\n",
        r"line 3: person_id is 'b', but 'a' for the same picture at 2; .*need a box each",
    ),
    "one person": (
        with_row("", ID, ",anna"),
        "line 2: 1 of the 3 people that a draw .*give them ids",
    ),
    "two rows": (
        HEADER + "photos/0.png,a\nphotos/1.png,b\n",
        "line 2: 2 of the 3 people .*add people",
    ),
    "box of words": (
        with_row('photos/5.png,x,"left"', BOX, ","),
        "line 7: box is 'left'; expected x,y",
    ),
    "box of three": (
        with_row('photos/5.png,x,"1,2,3"', BOX, ","),
        "line 7: box is '1,2,3'; expected",
    ),
    "box that is endless": (
        with_row('photos/5.png,x,"1,2,inf,3"', BOX, ","),
        "line 7: box is '1,2,inf",
    ),
    "box of corners": (
        with_row('photos/5.png,x,"9,9,-4,5"', BOX, ","),
        "line 7: box .* -4 wide .*corner",
    ),
    "box outside": (
        with_row('photos/5.png,x,"96,0,5,5"', BOX, ","),
        "line 7: the box 96,0,5,5 lies outside .*, which has 96 x 192 pixels; expected",
    ),
    "half a character": (
        json.dumps([*OBJECTS, {"file": "photos/5.png", "caption": "a \ud83d"}]),
        "entry 6: caption has no whole character at place 2",
    ),
    "JSON object": (
        json.dumps({"images": OBJECTS}),
        "one JSON object with the keys images; expected",
    ),
    "JSON of columns": (
        json.dumps({"file": ["a"], "caption": ["b"]}),
        r"entry 1: file is \['a'\]; exp",
    ),
    "JSON of texts": (
        json.dumps(["photos/0.png"]),
        "entry 1: expected an object, .*; found 'photos",
    ),
    "JSON cut off": (json.dumps(OBJECTS)[:-5], "not valid JSON .*; mend the list"),
    "JSON value of another kind": (
        json.dumps([*OBJECTS, {"file": "photos/5.png", "caption": {"en": "x"}}]),
        "entry 6: caption is .*; expected a text, a number or a list",
    ),
    "JSON key twice": (
        '[{"file": "a", "file": "b", "caption": "x"}]',
        "an object with 'file' twice",
    ),
    "empty JSON list": ("[]", "no column 'file'"),
    "a broken JSON line": (
        "\n".join(map(json.dumps, OBJECTS)) + '\n{"file": "photos/5.png", "caption": \n',
        "line 6: not valid JSON .*; mend or remove the line",
    ),
    "nested JSON": ("[" * 100_000, "nested too deeply|not valid JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_one_line_names_file_line_and_remedy(kind, write, agree):
    content, said = BAD[kind]
    problem = agree(write(content))
    assert problem is not None
    assert re.search(said, problem), problem


def test_all_problems_are_listed(write):
    report = check_dataset("manifest", write(with_row("nothing.png,x\n,y\nC:/a.jpg,z")))
    assert [len(lines) for lines in report.problems.values()] == [2, 1] and not report.ok
    assert "FAILED: 3 problems" in str(report)


def test_an_undecodable_photo_is_a_problem_of_the_check(write, tmp_path):
    path = write(with_row("photos/cut.png,x"))
    (tmp_path / "photos" / "cut.png").write_bytes((tmp_path / "photos/0.png").read_bytes()[:-200])
    (problem,) = check_dataset("manifest", path).problems["undecodable image"]
    assert "cut.png" in problem


def test_equal_photos_and_look_alikes(write, tmp_path):
    photos = tmp_path / "photos"
    rows = [(f"{i}.png", "train") for i in range(6)] + [
        ("copy.png", "test"),
        ("small.jpg", "train"),
    ]
    table = "".join(f"photos/{name},Somebody.,{split}\n" for name, split in rows)
    path = write(f"{SPLIT}\n{table}")
    (photos / "copy.png").write_bytes((photos / "0.png").read_bytes())
    Image.open(photos / "1.png").resize((68, 136)).save(photos / "small.jpg", quality=70)
    report = check_dataset("manifest", path)
    (equal,) = report.problems["image in several splits"]
    assert equal == f"train:{photos}/0.png = test:{photos}/copy.png"
    (alike,) = report.notes["photos of two people that look the same; give both one person_id"]
    assert alike == f"train:{photos}/1.png = train:{photos}/small.jpg"


def test_the_folder_decides_which_table_is_meant(write, agree, lines, tmp_path):
    problem = agree(str(tmp_path))
    assert problem and "has no manifest; expected manifest.csv there" in problem
    write("file,caption\n" + lines(), "a.csv")
    assert agree(str(tmp_path)) is None
    write("file,caption\n" + lines(), "b.tsv")
    problem = agree(str(tmp_path))
    assert problem and "has several tables: a.csv, b.tsv; give the one" in problem
    write("file,caption\n" + lines(), "manifest.jsonl")
    assert agree(str(tmp_path)) is None
    problem = agree(str(tmp_path / "c.csv"))
    assert problem and "no such manifest, or folder with one" in problem


def test_absolute_paths_and_links_are_read_and_said(write, agree, tmp_path):
    os.symlink(tmp_path / "photos" / "6.png", tmp_path / "photos" / "link.png")
    path = write(with_row(f"{tmp_path}/photos/5.png,x\nphotos/link.png,y"))
    assert agree(path) is None
    notes = read_manifest(path).findings.notes
    assert notes["absolute paths hold on this machine alone"] == [f"{path} line 7"]


def test_columns_that_nobody_reads_are_named(write):
    path = write(with_row("", "file,caption,weather,caption_id", ",sun,3"))
    notes = read_manifest(path).findings.notes
    assert notes["columns that are not read"] == [f"{path}: weather, caption_id"]
