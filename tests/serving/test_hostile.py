"""Hostile input: answered by a 4xx with a reason, and the service goes on."""

import io
import struct
import zlib

import pytest
from PIL import Image
from serving.conftest import noise


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, rows: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def encoded(kind: str) -> bytes:
    out = io.BytesIO()
    noise(0).save(out, kind)
    return out.getvalue()


# 49 million pixels in 150 kB are decoded; one more row than the cap is not.
BOMB = png_of(10_001, 5_000, bytes(30_004 * 100))
PICTURES = {
    "bomb": (BOMB, 413, "pixels"),
    "200 megapixels": (png_of(20_000, 10_000), 413, "pixels"),
    "size beyond any": (png_of(2**31 - 1, 2**31 - 1), 413, "pixels"),
    "no size": (png_of(0, 10), 415, "image"),
    "text": (b"hello\n" * 100, 415, "not a readable image"),
    "html": (b"<html><script>alert(1)</script></html>", 415, "not a readable image"),
    "empty": (b"", 415, "0 bytes"),
    "truncated png": (encoded("PNG")[:300], 415, "damaged"),
    "truncated jpeg": (encoded("JPEG")[:-200], 415, "damaged"),
    "header alone": (b"\xff\xd8\xff", 415, "image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not a readable image"),
    "gif": (encoded("GIF"), 415, "GIF"),
    "tiff": (encoded("TIFF"), 415, "TIFF"),
    "zip": (b"PK\x03\x04" + bytes(100), 415, "not a readable image"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(100), 415, "HEIC"),
    "nul": (bytes(10_000), 415, "not a readable image"),
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("place", ["/api/items", "/items"])
def test_pictures(running, name, place):
    data, status, reason = PICTURES[name]
    files = {"picture": ("a.jpg", data, "image/jpeg")}
    answer = running.client.post(place, files=files, headers={"accept": "text/html"})
    assert (answer.status_code, reason in answer.text) == (status, True), answer.text
    assert not list(running.gallery.parent.glob("*.pictures"))
    assert "add" not in running.audited()


IDS = ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "0", "-1", "1.5", "1e3", "%00", "9" * 30, "x"]


@pytest.mark.parametrize("number", [*IDS, "2**63", "٣", "1;drop table item", "1%20or%201=1"])
@pytest.mark.parametrize("path", ["/api/items/{}", "/api/items/{}/thumbnail", "/items/{}"])
def test_ids(running, number, path):
    answer = running.client.get(path.format(number))
    # The client resolves "..", so the first one asks for another address, which is not there.
    assert answer.status_code in (404, 422) and answer.json()["detail"]
    assert "root:" not in answer.text


QUERIES = {
    "nul": ({"sentence": "a\0b"}, 422),
    "surrogate": (b'{"sentence": "\\ud800"}', 422),
    "long": ({"sentence": "red " * 200}, 422),
    "1 MB": ({"sentence": "x" * 2**20}, 413),
    "no word": ({"sentence": " ?! "}, 400),
    "nothing": ({}, 400),
    "a number": ({"sentence": 5}, 422),
    "unknown field": ({"sentence": "red", "top": 5}, 422),
    "true is no number": ({"sentence": "red", "offset": True}, 422),
    "text is no number": ({"sentence": "red", "k": "5"}, 422),
    "true is no value": ({"sentence": "red", "where": {"track": True}}, 422),
    "k 0": ({"sentence": "red", "k": 0}, 422),
    "k too large": ({"sentence": "red", "k": 10**9}, 422),
    "offset below 0": ({"sentence": "red", "offset": -1}, 422),
    "offset beyond int64": ({"sentence": "red", "offset": 2**70}, 422),
    "no such item": ({"like": 10**6}, 404),
    "item 0": ({"like": 0}, 422),
    "no such language": ({"sentence": "red", "language": "tlh"}, 400),
    "no such filter": ({"sentence": "red", "where": {"colour": "red"}}, 400),
    "paths": ({"sentence": "red", "where": {"path": "*"}}, 422),
    "paths, compared": ({"sentence": "red", "where": {" path >=": "/"}}, 422),
    "sql": ({"sentence": "red", "where": {"camera = '' OR 1": "x"}}, 400),
    "json path": ({"sentence": "red", "where": {'a"]': "x"}}, 400),
    "no field": ({"sentence": "red", "where": {"": "x"}}, 400),
    "comparison alone": ({"sentence": "red", "where": {">=": "x"}}, 400),
    "no values": ({"sentence": "red", "where": {"camera": []}}, 422),
    "nested": ({"sentence": "red", "where": {"camera": {"a": 1}}}, 422),
    "null": ({"sentence": "red", "where": {"camera": None}}, 422),
    "a tag compared": ({"sentence": "red", "where": {"tag>": "a"}}, 400),
    "an id of words": ({"sentence": "red", "where": {"id": "x"}}, 400),
    "an infinite id": (b'{"sentence": "red", "where": {"id": 1e999}}', 422),
    "an id too large": ({"sentence": "red", "where": {"track": 10**30}}, 200),
    "not JSON": (b"{", 422),
    "not UTF-8": (b'{"sentence": "\xff"}', 400),
    "deep": (b"[" * 20_000, 400),
    "a list": ([], 422),
    "digits": (b'{"sentence": ' + b"9" * 5000 + b"}", 400),
}


@pytest.mark.parametrize("name", QUERIES)
def test_queries(running, name):
    body, status = QUERIES[name]
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = running.client.post(
        "/api/search", **sent, headers={"content-type": "application/json"}
    )
    assert answer.status_code == status, answer.text
    if status != 200:
        assert len(answer.json()["detail"]) < 400 and "\n" not in answer.json()["detail"]
    good = running.client.post("/api/search", json={"sentence": "red", "k": 1}).json()
    assert len(good["matches"]) == 1


@pytest.mark.parametrize(
    "query",
    ["q=a%00b", "q=" + "x" * 700, "q=%ff%fe", "q=red&page=0", "q=red&page=x", "q=red&page=10000000"]
    + ["q=red&since=x", "q=red&until=2026-13-01", "q=red&camera=a%00", "like=x", "like=999999"]
    + ["q=%3F", "q=red&language=tlh"],
)
def test_addresses_of_the_page(running, query):
    answer = running.client.get(f"/?{query}", headers={"accept": "text/html"})
    # %ff is no UTF-8; it is read as the replacement character, which is no word.
    assert answer.status_code in (400, 404, 422) and 'role="alert"' in answer.text


def test_what_was_typed_is_shown_as_text(running):
    evil = "red <script>alert(1)</script> \"'>"
    answer = running.client.get("/", params={"q": evil, "camera": evil, "tag": evil})
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text and "&lt;script&gt;" in answer.text


def test_a_body_without_a_declared_size(running):
    def much():
        for _ in range(200):
            yield b"x" * 1024

    answer = running.client.post(
        "/api/search", content=much(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413


def test_an_upload_that_declares_too_much(running):
    headers = {"content-type": "multipart/form-data; boundary=x", "content-length": str(2**40)}
    answer = running.client.post("/api/items", content=b"x", headers=headers)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"time": "yesterday"}, 422),
        ({"camera": "x" * 300}, 422),
        ({"camera": "a\0"}, 422),
        ({"tag": ["x"] * 60}, 422),
    ],
)
def test_facts_of_an_upload(running, fields, status):
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    for place in ("/api/items", "/items"):
        answer = running.client.post(place, files={"picture": out.getvalue()}, data=fields)
        if place == "/items" and "tag" in fields:  # one text there, split at commas
            continue
        assert answer.status_code == status and answer.json()["detail"]


def test_no_picture_at_all(running):
    assert running.client.post("/api/items", data={"camera": "x"}).status_code == 422
    assert running.client.post("/api/items", data={"picture": "x"}).status_code == 422
    assert running.client.post("/items", content=b"x").status_code == 422
