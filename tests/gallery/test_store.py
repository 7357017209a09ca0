"""What every store of a gallery does: one file of tests for SQLite and for Milvus."""

import dataclasses
import os
from typing import Any

import numpy as np
import pytest

from tests.gallery.numbered import WIDTH, content, item, rows, state
from tipr_jax.gallery.store import Box
from tipr_jax.gallery.stores import create_store, open_store


@pytest.fixture
def store(gallery_place):
    with create_store(gallery_place) as store:
        yield store


@pytest.fixture
def model(store):
    return store.register_model("f" * 64, "/runs/a", WIDTH, {"method": "irra"})


def test_what_goes_in_comes_out(store, model, gallery_place):
    facts: dict[str, Any] = dict(camera="gate", time="2026-11-29T10:00", meta={"floor": 2})
    facts["tags"] = ("vip", "été")
    box = item(2, box=Box(3, 4, 20, 50), frame_time=1.25, track=7, **facts)
    vectors = rows(2)
    ids = store.add([item(1), box], vectors, model, {"/photos/1.jpg": state(1)})
    store.close()
    with open_store(gallery_place) as again:
        first, second = again.items(ids)
        assert dataclasses.replace(first, id=0, added="") == item(1)
        assert dataclasses.replace(second, id=0, added="") == box
        assert first.added.startswith("20") and [first.id, second.id] == ids
        ((found, stored),) = again.vectors(again.models()[0])
        assert found.tolist() == ids
        np.testing.assert_array_equal(stored, vectors)
        np.testing.assert_array_equal(again.vectors_of(ids[::-1], model), vectors[::-1])
        assert again.files() == {"/photos/1.jpg": state(1)}


def test_content_is_known_by_its_hash_and_region(store, model):
    first = store.add([item(1)], rows(1), model)
    assert store.add([item(1, "/elsewhere.jpg")], rows(1), model) == first
    boxes = [item(1, box=Box(0, 0, 5, 9)), item(1, box=Box(0, 0, 5, 9), frame_time=2.0)]
    assert len({*store.add(boxes, rows(2), model), *first}) == 3


def test_a_changed_file_takes_its_former_content_along(store, model):
    store.add([item(1)], rows(1), model, {"/photos/1.jpg": state(1)})
    store.add([item(2, "/photos/1.jpg")], rows(1), model, {"/photos/1.jpg": state(2)})
    assert [i.content for i in store.items(store.select())] == [content(2)]


def test_a_content_stays_while_one_file_has_it(store, model):
    store.add([item(1)], rows(1), model, {"/photos/1.jpg": state(1)})
    store.record_files({"/copy.jpg": state(1)})
    assert store.forget_files(["/photos/1.jpg"]) == 0
    (left,) = store.items(store.select())
    assert left.path == "/copy.jpg"
    assert store.forget_files(["/copy.jpg", "/never/seen.jpg"]) == 1
    assert len(store.select()) == 0 and store.files() == {}
    assert len(store.embedded(model)) == 0


def test_deleted_items_are_gone_and_their_ids_are_not_used_again(store, model):
    ids = store.add([item(n) for n in range(3)], rows(3), model, {"/photos/2.jpg": state(2)})
    assert store.delete([ids[2], 999]) == 1
    assert store.items(ids) == store.items(ids[:2]) and len(store.items(ids)) == 2
    assert store.files() == {}, "a rescan may take it again"
    assert store.add([item(9)], rows(1), model)[0] > ids[2]


def test_names_that_are_no_utf8(store, model):
    name = os.fsdecode(b"/photos/\xd5\xd5.jpg")
    ids = store.add([item(1, name)], rows(1), model, {name: state(1)})
    assert store.items(ids)[0].path == name and list(store.files()) == [name]


def test_vectors_of_two_models(store, model):
    other = store.register_model("e" * 64, "/runs/b", 4, {})
    ids = store.add([item(n) for n in range(5)], rows(5), model)
    assert [i.id for i in store.without_vector(other, 3)] == ids[:3]
    store.add_vectors([*ids[:3], 999], rows(4)[:, :4], other)
    assert [i.id for i in store.without_vector(other, 9)] == ids[3:]
    assert store.embedded(other).tolist() == ids[:3]
    store.remove_model(model)
    assert len(store.select()) == 5 and [m.directory for m in store.models()] == ["/runs/b"]


def test_vectors_of_another_width_are_refused(store, model):
    with pytest.raises(ValueError, match=r"\(1, 7\), expected \(1, 8\)"):
        store.add([item(1)], rows(1)[:, :7], model)


def test_another_process_sees_changes(store, model, gallery_place):
    with open_store(gallery_place) as reader:
        before = reader.changes()
        assert reader.changes() == before
        store.add([item(1)], rows(1), model)
        assert reader.changes() != before and len(reader.select()) == 1


def test_two_files_that_swap_their_contents(store, model):
    before = {"/a.jpg": state(1), "/b.jpg": state(2)}
    store.add([item(1, "/a.jpg"), item(2, "/b.jpg")], rows(2), model, before)
    swapped = {"/a.jpg": state(2), "/b.jpg": state(1)}
    store.add([item(2, "/a.jpg"), item(1, "/b.jpg")], rows(2), model, swapped)
    items = store.items(store.select())
    assert [(i.content, i.path) for i in items] == [(content(1), "/b.jpg"), (content(2), "/a.jpg")]


def test_one_item_twice_in_a_call(store, model):
    vectors = rows(3)
    assert store.add([item(7), item(5), item(7)], vectors, model) == [1, 2, 1]
    np.testing.assert_array_equal(store.vectors_of([1, 2], model), vectors[[2, 1]])


@pytest.mark.parametrize(
    "name",
    ['/it\'s "so"/50%.jpg', "/été/红色外套.jpg", "/a\nb\\c.jpg", "/%41.jpg", "/" + "x" * 4000],
    ids=["quotes", "letters", "newline", "percent", "long"],
)
def test_unusual_names(store, model, name):
    (number,) = store.add([item(1, name)], rows(1), model, {name: state(1)})
    assert store.items([number])[0].path == name and store.files() == {name: state(1)}
    assert store.select({"path": name.replace("[", "?")}).tolist() == [number]
    assert store.forget_files([name]) == 1 and store.files() == {}


def test_more_than_one_call_takes(store, model):
    """Several parts of everything: added, found, embedded, deleted."""
    count = 2100
    ids = store.add([item(n, meta={"n": n}) for n in range(count)], rows(count), model)
    assert ids == [*range(1, count + 1)] and store.select().tolist() == ids
    assert [i.content for i in store.items(ids[::-1])] == [content(n) for n in range(count)][::-1]
    np.testing.assert_array_equal(store.vectors_of(ids, model), rows(count))
    assert store.select({"n>=": 2000}).tolist() == ids[2000:]
    other = store.register_model("e" * 64, "/runs/b", WIDTH, {})
    store.add_vectors(ids, rows(count, 1), other)
    np.testing.assert_array_equal(store.vectors_of(ids, other), rows(count, 1))
    assert store.delete(ids[:2050]) == 2050 and store.embedded(other).tolist() == ids[2050:]
    store.record_files({f"/{n}": state(n) for n in range(count)})
    assert store.forget_files([f"/{n}" for n in range(count)]) == 50


def test_settings(store, gallery_place):
    long = {"scores": [0.1 * n for n in range(20_000)]}
    store.remember("calibration", long)
    store.remember("détect", ["x", None, 'a "b"'])
    with open_store(gallery_place) as reader:
        assert reader.setting("calibration") == long
        assert reader.setting("détect") == ["x", None, 'a "b"'] and reader.setting("none", 7) == 7
    store.remember("calibration", None)
    assert store.setting("calibration", 1) is None


def test_the_same_model_again(store, model):
    again = store.register_model("f" * 64, "/moved", WIDTH, {"method": "irra"})
    assert again == model._replace(directory="/moved") and store.models() == [again]
    store.remember("model", model.id)
    assert store.current_model == again


def test_filters_follow_changes(store, model, gallery_place):
    ids = store.add([item(n, camera="ab"[n % 2]) for n in range(4)], rows(4), model)
    with open_store(gallery_place) as reader:
        assert reader.select({"camera": "a"}).tolist() == [ids[0], ids[2]]
        store.delete(ids[:1])
        store.add([item(9, camera="a")], rows(1), model)
        assert reader.select({"camera": "a"}).tolist() == [ids[2], ids[3] + 1]
        assert reader.cameras_and_tags() == (["a", "b"], [])
        store.record_files({"/photos/2.jpg": state(2), "/copy.jpg": state(2)})
        store.forget_files(["/photos/2.jpg"])
        assert reader.select({"path": "/copy.jpg"}).tolist() == [ids[2]]


def test_stats(store, model):
    store.add([item(1), item(2)], rows(2), model, {"/photos/1.jpg": state(1)})
    store.remember("model", model.id)
    stats = store.stats()
    assert (stats["items"], stats["files"], stats["gallery"]) == (2, 1, str(store.path))
    (figures,) = stats["models"]
    assert figures["vectors"] == 2 and figures["searched"] and stats["bytes"] > 0


def test_a_gallery_is_not_made_over_another(store, model, gallery_place):
    store.add([item(1)], rows(1), model)
    with pytest.raises(ValueError, match="exists already"):
        create_store(gallery_place)
    assert len(store.select()) == 1
