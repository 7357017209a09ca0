"""A gallery on Milvus: killed at any write, with other writers, and what is said when it fails."""

import base64
import contextlib
import functools
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import time
from concurrent import futures
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines.synth_pedes.generate import generate
from tests.gallery.numbered import (
    WIDTH,
    check_acknowledged,
    content,
    item,
    killed_writers,
    rows,
    state,
)
from tipr_jax import checkpoints, run_files
from tipr_jax.gallery import Retriever, milvus_turn
from tipr_jax.gallery.__main__ import main
from tipr_jax.gallery.milvus_store import MilvusStore
from tipr_jax.gallery.milvus_tables import Tables
from tipr_jax.gallery.store import Item
from tipr_jax.gallery.stores import create_store, exists, gallery_place, open_store

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests" / "fixtures" / "irra_model"


class Clock:
    """Time that passes while somebody sleeps, and then fast."""

    def __init__(self):
        self.now, self.while_asleep = 0.0, lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _: float) -> None:
        self.now += 1.0
        self.while_asleep()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(milvus_turn, "time", clock)
    return clock


@pytest.fixture
def store(milvus_place):
    with MilvusStore.create(milvus_place) as store:
        yield store


@pytest.fixture
def record(store):
    return store.register_model("f" * 64, "/runs/a", WIDTH, {})


# Killed between any two writes.


class KilledError(BaseException):
    """As kill -9: whatever would be written from now on is not."""


WRITES = ("put", "drop", "create", "destroy")


def run_until(store: MilvusStore, action, writes: int) -> bool:
    """Whether an action came to its end with so many writes; the next one kills its process."""
    left = itertools.count(writes, -1)

    def stops(write):
        def or_writes(*words, **options):
            if next(left) <= 0:
                raise KilledError
            return write(*words, **options)

        return or_writes

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KilledError):
        for name in WRITES:
            patch.setattr(store._tables, name, stops(getattr(store._tables, name)))
        action(store)
        return True
    return False


def known(store) -> dict:
    """All that is in a store, without its numbers."""
    items = store.items(store.select())
    models = store.models()
    return {
        "items": sorted((i.content, i.path, i.region) for i in items),
        "files": store.files(),
        "models": {m.fingerprint: m.directory for m in models},
        "vectors": {
            (m.fingerprint, i.content, i.region): store.vectors_of([i.id], m).tolist()
            for m in models
            for i in items
            if i.id in store.embedded(m)
        },
        "setting": store.setting("note"),
    }


def check_whole(store, always: str) -> None:
    """No item without the vector of the model that is searched, or the other way round."""
    ids = store.select()
    items = store.items(ids)
    assert len(items) == len(ids) == len({(i.content, i.region) for i in items})
    (model,) = (m for m in store.models() if m.fingerprint == always)
    assert store.embedded(model).tolist() == ids.tolist()
    found = [number for part, _ in store.vectors(model) for number in part.tolist()]
    assert found == ids.tolist()
    for gone in set(range(1, 12)) - set(ids.tolist()):
        with pytest.raises(KeyError):
            store.vectors_of([gone], model)


def filled(store: MilvusStore) -> None:
    files = {f"/photos/{n}.jpg": state(n) for n in range(4)} | {"/copy.jpg": state(3)}
    old = store.register_model("f" * 64, "/runs/a", WIDTH, {})
    store.register_model("e" * 64, "/runs/b", WIDTH, {})
    store.add([item(n) for n in range(4)], rows(4), old, files)


def first_model(store):
    return store.models()[0]


ACTIONS = {
    "add": lambda s: s.add(
        [item(1), item(8), item(9, "/photos/2.jpg")],
        rows(3, 1),
        first_model(s),
        {"/photos/8.jpg": state(8), "/photos/2.jpg": state(9), "/photos/3.jpg": state(8)},
    ),
    "record files": lambda s: s.record_files({"/photos/3.jpg": state(7), "/x.jpg": state(2)}),
    "forget files": lambda s: s.forget_files(["/photos/1.jpg", "/photos/3.jpg"]),
    "delete": lambda s: s.delete([i.id for i in s.items(s.select()) if i.content < content(2)]),
    "add vectors": lambda s: s.add_vectors(s.select(), rows(4, 2), s.models()[1]),
    "register": lambda s: s.register_model("d" * 64, "/runs/c", WIDTH, {}),
    "remove model": lambda s: [s.remove_model(m) for m in s.models() if m.fingerprint[0] == "e"],
    "remember": lambda s: s.remember("note", ["long"] * 20_000),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_killed_between_any_two_writes(milvus_file, clock, name):
    """A reader sees nothing half-made, and the same again completes it."""
    label = name.replace(" ", "_")
    with MilvusStore.create(f"milvus:{milvus_file}/whole_{label}") as whole:
        filled(whole)
        ACTIONS[name](whole)
        expected = known(whole)
    for writes in range(1, 40):
        address = f"milvus:{milvus_file}/killed_{label}_{writes}"
        with MilvusStore.create(address) as store:
            filled(store)
            before, changes = known(store), store.changes()
            ended = run_until(store, ACTIONS[name], writes)
        with MilvusStore.open(address) as reader:
            check_whole(reader, "f" * 64)
            assert reader.changes() != changes or known(reader) == before
            largest = max(reader.select())
            if not ended:
                ACTIONS[name](reader)
            assert known(reader) == expected, writes
            check_whole(reader, "f" * 64)
            (new,) = reader.add([item(99)], rows(1), first_model(reader))
            assert new > largest
        if ended:
            return
    pytest.fail("it never ended")


def test_killed_while_it_is_made(milvus_place):
    tables = Tables(milvus_place, create=True)
    tables.create("item")
    assert not exists(milvus_place)
    with MilvusStore.create(milvus_place) as store:
        assert len(store.select()) == 0


# One writer at a time.


def test_a_second_writer_is_refused_after_a_while(store, record, clock, milvus_place):
    with MilvusStore.open(milvus_place) as second, milvus_turn.take(store._tables) as turn:
        clock.while_asleep = turn._raise_flag  # the first one is alive
        with pytest.raises(OSError, match="another process has been writing to it for 45 s"):
            second.add([item(1)], rows(1), record)
        assert len(second.select()) == 0, "reading goes on"
    store.add([item(1)], rows(1), record)


def test_who_stood_still_writes_no_more(store, record, clock, milvus_place):
    with (
        pytest.raises(OSError, match=r"stood still for \d+ s.*run the command again"),
        milvus_turn.take(store._tables) as turn,
    ):
        clock.now += 60
        with MilvusStore.open(milvus_place) as second:
            second.add([item(2)], rows(1), record)
        turn.drop("item", [1])
    assert [i.content for i in store.items(store.select())] == [content(2)]


def test_writers_at_once(store, record, milvus_place):
    def write(first: int) -> list[int]:
        with MilvusStore.open(milvus_place) as mine:
            return [
                mine.add([item(n), item(1000)], rows(2, n), record)[0]
                for n in range(first, first + 8)
            ]

    with futures.ThreadPoolExecutor(3) as pool:
        ids = sum(pool.map(write, (0, 100, 200)), [])
    assert len(set(ids)) == 24
    found = {int(i.content, 16) for i in store.items(store.select())}
    assert found == {*range(8), *range(100, 108), *range(200, 208), 1000}
    assert len(store.select()) == 25 and milvus_turn.look(store._tables).flags == {}


def test_an_error_in_the_middle_ends_the_turn(store, record, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(milvus_turn.Turn, "new_ids", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            store.add([item(1)], rows(1), record)
    assert len(store.select()) == 0
    assert milvus_turn.look(store._tables).flags == {}


# The same answers as a file gives.


def test_answers_equal_those_of_a_file(model, milvus_place, tmp_path):
    retrievers = [Retriever.create(p, model) for p in (tmp_path / "a.gallery", milvus_place)]
    vectors = np.random.default_rng(0).normal(size=(300, model.feature_size))
    items = [item(n, camera="ab"[n % 2]) for n in range(300)]
    for retriever in retrievers:
        retriever.store.add(items, vectors, retriever.record)
        retriever.store.delete([7, 8, 9])
    queries = vectors[:5].astype(np.float32)
    for where in (None, {"camera": "a"}, {"id>": 200}):
        (file, among), (server, among_there) = (r.rank(queries, 40, where) for r in retrievers)
        assert among == among_there
        for (ids, scores), (ids_there, scores_there) in zip(file, server, strict=True):
            np.testing.assert_array_equal(ids, ids_there)
            np.testing.assert_array_equal(scores, scores_there)


# A server of its own, with several processes.


@pytest.fixture
def server(milvus_file, tmp_path):
    """The address of a gallery on a server, and the server's file."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path / "served.db"
    command = [sys.executable, "-m", "milvus_lite", "server", f"--data-dir={folder}"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [*command, f"--port={port}"], stdout=log, stderr=subprocess.STDOUT
        )
    for _ in range(600):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/people", folder, process
    process.kill()
    process.wait()


WRITER = """
import sys
from tests.gallery.numbered import item, rows, state
from tipr_jax.gallery.stores import open_store
store = open_store(sys.argv[1])
(model,) = store.models()
first = int(sys.argv[2])
for number in range(first, first + 100_000):
    path = f"/photos/{number}.jpg"
    ids = store.add([item(number)], rows(1, number), model, {path: state(number)})
    if number % 3 == 0:
        store.delete(ids)
    print(number, flush=True)
"""


@pytest.mark.slow
def test_a_killed_writer_loses_nothing_that_it_acknowledged(server):
    """Every acknowledged change is there once, for another process, too."""
    address, *_ = server
    store = create_store(address)
    record = store.register_model("f" * 64, "/runs/a", WIDTH, {})
    kills = int(os.environ.get("KILLS", "3"))
    after_each = functools.partial(check_whole, store, "f" * 64)
    acknowledged = killed_writers(WRITER, address, kills=kills, longest=0.5, after_each=after_each)
    check_acknowledged(store, acknowledged)
    assert len(acknowledged) > 3
    store.add([item(10**6)], rows(1), record)
    with MilvusStore.open(address) as reader:
        assert milvus_turn.look(reader._tables).flags == {}, "the dead hold nothing up"


def test_a_file_that_another_process_has_open(server):
    address, folder, _ = server
    with create_store(address) as store, pytest.raises(OSError, match="milvus-lite serves one"):
        assert len(store.select()) == 0
        open_store(f"milvus:{folder}/people")


# What is said when it fails.


@pytest.fixture
def refusing():
    """A server that lets nobody in; its address, and the tokens that it was shown."""
    grpc, shown = pytest.importorskip("grpc"), []

    class Refuse(grpc.ServerInterceptor):
        def intercept_service(self, continuation, details):
            shown.extend(v for key, v in details.invocation_metadata if key == "authorization")
            return grpc.unary_unary_rpc_method_handler(
                lambda _, call: call.abort(grpc.StatusCode.UNAUTHENTICATED, "auth check failure")
            )

    server = grpc.server(futures.ThreadPoolExecutor(2), interceptors=[Refuse()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}/people", shown
    server.stop(0)


def test_a_wrong_token(milvus_file, refusing, monkeypatch):
    address, shown = refusing
    monkeypatch.setenv("MILVUS_TOKEN", "root:wrong")
    for call in (open_store, create_store, exists):
        with pytest.raises(
            OSError, match=f"^{address}: the server lets nobody in with this token; set MILVUS"
        ):
            call(address)
    assert {base64.b64decode(token) for token in shown} == {b"root:wrong"}


def test_no_server(milvus_file):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for call in (open_store, create_store, exists):
        with pytest.raises(
            OSError, match=r"/people: no server answers there \(Connection refused.*https\?$"
        ):
            call(f"http://127.0.0.1:{port}/people")
    with pytest.raises(OSError, match="no server answers there"):
        open_store("https://no-such-host.invalid/people")


def test_a_server_that_goes_away(server, monkeypatch):
    monkeypatch.setattr("tipr_jax.gallery.milvus_tables.TIMEOUT_S", 1.0)
    address, _, process = server
    store = create_store(address)
    process.kill()
    process.wait()
    for call in (store.select, store.changes, lambda: store.remember("note", 1)):
        with pytest.raises(OSError, match=f"^{address}: ") as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("module", ["pymilvus", "milvus_lite"])
def test_without_the_extra(monkeypatch, module):
    if module == "milvus_lite":
        pytest.importorskip("pymilvus")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"{module}.*pip install 'tipr_jax\[milvus\]'"):
        open_store("milvus:trial.db/people")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://host:19530", "expected server and gallery, as in http://host:19530/people"),
        ("http://host:19530/", "does not allow the name ''"),
        ("http://host:19530/my-people", "does not allow the name 'my-people'; use letters"),
        ("http://host:19530/7", "a letter first"),
        ("http://host:19530/пpeople", "does not allow the name"),
        ("http://host/a/b", "does not allow the name 'a/b'"),
        ("http://host:port/people", "expected server and gallery"),
        ("https://me:secret@host/people", "set MILVUS_TOKEN=USER:PASSWORD"),
        ("milvus:trial.sqlite/people", "milvus:FILE.db/people"),
        ("milvus:trial.db", "milvus:FILE.db/people"),
        ("gs://bucket/my.gallery", "an address; expected a path of this machine"),
    ],
)
def test_what_is_no_address(address, words):
    with pytest.raises(ValueError, match=words) as caught:
        gallery_place(address, "--gallery")
    assert "secret" not in str(caught.value)


def test_a_name_that_is_not_there(store, milvus_place, tmp_path):
    name = milvus_place.rpartition("/")[2]
    with pytest.raises(FileNotFoundError, match=f"no such gallery; did you mean .*{name}"):
        open_store(milvus_place.replace("/gallery_", "/galery_"))
    with pytest.raises(FileNotFoundError, match="trial.db: no such milvus-lite file"):
        open_store(f"milvus:{tmp_path}/trial.db/people")
    assert not (tmp_path / "trial.db").exists(), "looking makes nothing"


def test_a_newer_format(store, milvus_place):
    store.remember("format", 99)
    with pytest.raises(ValueError, match="has format 99.*update tipr_jax"):
        open_store(milvus_place)


def test_more_facts_than_milvus_takes(store, record):
    much = Item(content(1), "/photos/1.jpg", meta={"text": "x" * 70_000})
    with pytest.raises(ValueError, match="/photos/1.jpg: .* Milvus takes 65535"):
        store.add([much], rows(1), record)
    assert len(store.select()) == 0


# The commands.


@pytest.fixture
def command(server, tmp_path, monkeypatch, capsys):
    """Runs a command on a server's gallery; returns what it printed, or its last words."""
    address, *_ = server
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*words: str, gallery: str = address) -> str:
        end = ""
        try:
            main([*words, f"--gallery={gallery}"])
        except SystemExit as error:
            end = str(error.code)
        printed = capsys.readouterr()
        return printed.out + printed.err + end

    return run


@pytest.fixture
def another_model(tmp_path) -> Path:
    """The same model with other weights."""
    _, params = checkpoints.load_params(MODEL)
    params = jax.tree.map(lambda x: x * 1.01, params)
    checkpoints.save_params(tmp_path / "another", params, run_files.read_config(MODEL))
    return tmp_path / "another"


@pytest.mark.slow
def test_every_command(command, another_model, tmp_path):
    generate(tmp_path, "cuhk_pedes", train_ids=2, val_ids=4, test_ids=2, images_per_id=2)
    photos = str(tmp_path / "CUHK-PEDES" / "imgs")
    assert "is new, so say which model" in command("add", photos)
    printed = command("add", photos, f"--model={MODEL}", "--camera=gate")
    assert re.search(
        r"^http://127.0.0.1:\d+/people: 16 files added; it holds 16 items$", printed, re.M
    )
    assert "nothing to do, 16 files unchanged" in command("add", photos)
    assert '"a man" among 16 items:' in command("search", "a man", "--where", "camera=gate")
    assert "16 items, page 1 of 1" in command("list")
    assert "1 item deleted, 15 left" in command("delete", "--id=1")
    assert "vectors of another model" in command("search", "a man", f"--model={another_model}")
    labelled = ("--name=cuhk_pedes", f"--root={tmp_path}")
    assert "8 photos of cuhk_pedes val: AUC" in command("calibrate", *labelled)
    assert "15 items embedded" in command("reindex", f"--model={another_model}")
    found = json.loads(command("search", "a man", "--json", "--top=3"))
    assert found["among"] == 15 and len(found["matches"]) == 3
    assert "15 items of 15 files" in command("stats")


@pytest.mark.parametrize(
    "words", [("search", "a man"), ("list",), ("stats",), ("delete", "--id=1")]
)
def test_mistakes_are_one_line(milvus_place, capsys, words):
    create_store(milvus_place).close()
    name = milvus_place.rpartition("/")[2]
    mistakes = {
        f"{milvus_place}x": f"no such gallery; did you mean {name}",
        "http://127.0.0.1:9/people": "no server answers there (Connection refused)",
        "http://127.0.0.1:9/my-people": "does not allow the name",
        "gs://bucket/people": "an address",
    }
    for address, expected in mistakes.items():
        with pytest.raises(SystemExit) as ended:
            main([*words, f"--gallery={address}"])
        printed = capsys.readouterr()
        said = f"{ended.value.code}{printed.err}{printed.out}"
        assert expected in said and len(said.splitlines()) == 1, said
