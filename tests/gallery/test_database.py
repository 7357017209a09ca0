"""The gallery's file: what is acknowledged stays, whatever happens, and bad files are named."""

import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from tests.gallery.numbered import (
    WIDTH,
    check_acknowledged,
    item,
    killed_writers,
    rows,
    state,
)
from tipr_jax.gallery import database
from tipr_jax.gallery.store import Store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "my.gallery"


@pytest.fixture
def store(path):
    with Store.create(path) as store:
        yield store


@pytest.fixture
def model(store):
    return store.register_model("f" * 64, "/runs/a", WIDTH, {"method": "irra"})


def test_an_error_in_the_middle_leaves_nothing(store, model, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(store, "_record_files", fail)
    with pytest.raises(ZeroDivisionError):
        store.add([item(1)], rows(1), model, {"/photos/1.jpg": state(1)})
    assert len(store.select()) == 0


def test_readers_are_not_kept_waiting_by_a_writer(store, model, path):
    store.add([item(1)], rows(1), model)
    with Store.open(path) as reader, store._change():
        assert len(reader.select()) == 1


def test_a_second_writer_is_refused_after_a_while(store, model, path, monkeypatch):
    monkeypatch.setattr(database, "WAIT_S", 0.1)
    with Store.open(path) as second, store._change():
        with pytest.raises(OSError, match="another process has been writing"):
            second.add([item(1)], rows(1), model)


def test_a_full_disk(store, model):
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    done = []
    with pytest.raises(OSError, match="disk is full.*make room"):
        for number in range(10_000):
            done += store.add([item(number)], rows(1), model)
    store._db.execute("PRAGMA max_page_count = 100000")
    assert store.select().tolist() == done
    store.add([item(99_999)], rows(1), model)


def test_a_file_that_cannot_be_written_is_read(store, model, path, monkeypatch):
    store.add([item(1)], rows(1), model)
    store.close()
    monkeypatch.setattr(database.os, "access", lambda *_: False)
    with Store.open(path) as reader:
        assert len(reader.select()) == 1 and reader.current_model is None
        with pytest.raises(PermissionError, match="no permission to write"):
            reader.delete([1])


def make_text(path):
    path.write_text("a man in a red coat " * 99)


def make_other_database(path):
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE item (id)")


def make_newer(path):
    Store.create(path).close()
    with contextlib.closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 99")


BAD = {
    "missing": (lambda path: None, FileNotFoundError, "no such gallery"),
    "folder": (lambda path: path.mkdir(), ValueError, "is a folder"),
    "empty": (lambda path: path.touch(), ValueError, "not a gallery"),
    "text": (make_text, ValueError, "not a gallery"),
    "another database": (make_other_database, ValueError, "not a gallery"),
    "newer": (make_newer, ValueError, "has format 99.*update tipr_jax"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_gallery(path, what):
    make, error, words = BAD[what]
    make(path)
    with pytest.raises(error, match=words):
        Store.open(path)


def test_a_gallery_is_not_made_over_a_file(path):
    path.write_text("important")
    with pytest.raises(ValueError, match="exists already"):
        Store.create(path)
    assert path.read_text() == "important"


def test_deleting_and_adding_does_not_make_the_file_grow(store, model, path):
    wide = store.register_model("d" * 64, "/runs/wide", 512, {})
    vectors = np.ones((500, 512), np.float16)
    store.add([item(n) for n in range(500)], vectors, wide)
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.stat().st_size
    ids = store.select().tolist()
    for number in range(500, 1500):
        store.delete([ids.pop(0)])
        ids += store.add([item(number)], vectors[:1], wide)
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size < 1.1 * before


WRITER = """
import sys
from tests.gallery.numbered import item, rows, state
from tipr_jax.gallery.store import Store
store = Store.open(sys.argv[1])
(model,) = store.models()
first = int(sys.argv[2])
for number in range(first, first + 100_000):
    path = f"/photos/{number}.jpg"
    ids = store.add([item(number)], rows(1, number), model, {path: state(number)})
    if number % 3 == 0:
        store.delete(ids)
    print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_acknowledged(store, model, path):
    """Killed 5 times at random moments; every acknowledged change is there once."""
    acknowledged = killed_writers(WRITER, str(path), kills=5, longest=0.3)
    check_acknowledged(store, acknowledged)
    vectors = {int(i) for ids, _ in store.vectors(model) for i in ids}
    assert vectors == set(store.select().tolist()), "none half-made"
    assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
