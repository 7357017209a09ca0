"""The JSON interface: what programs can do, and that every deed is recorded."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image
from serving.conftest import PHOTOS, noise

from tipr_jax.gallery import Item, Retriever, Store
from tipr_jax.gallery.store import Box
from tipr_jax.serving import pictures
from tipr_jax.serving.searching import warm_up


def png(seed, **size) -> bytes:
    out = io.BytesIO()
    noise(seed, **size).save(out, "PNG")
    return out.getvalue()


def search(running, **asked):
    answer = running.client.post("/api/search", json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(found) -> list[int]:
    return [match["id"] for match in found["matches"]]


def scores(found) -> dict[int, float]:
    return {match["id"]: match["score"] for match in found["matches"]}


def upload(running, data, name="a.png", **fields):
    return running.client.post("/api/items", files={"picture": (name, data)}, data=fields)


@pytest.mark.parametrize(("k", "offset"), [(5, 0), (5, 27), (1, 29), (100, 0), (5, 30), (5, 10**6)])
@pytest.mark.parametrize("where", [{}, {"camera": "hall"}, {"time<=": "2026-11-28T23:59"}])
def test_a_search_is_the_retrievers(running, model, k, offset, where):
    found = search(running, sentence="a man in red", k=k, offset=offset, where=where)
    with_filter = Retriever.open(running.gallery, model)
    want = with_filter.search("a man in red", k, offset=offset, where=where)
    assert ids(found) == [match.item.id for match in want]
    for match, expected in zip(found["matches"], want, strict=True):
        assert match["score"] == pytest.approx(expected.score, abs=1e-5)
    assert found["among"] == len(with_filter.store.select(where))


def test_an_item_finds_itself_and_words_change_the_order(running):
    alone = search(running, like=7, k=30)
    assert alone["matches"][0]["id"] == 7
    assert alone["matches"][0]["score"] == pytest.approx(1, abs=1e-3)
    words = scores(search(running, sentence="red", k=30))
    looks = scores(alone)
    both = search(running, sentence="red", like=7, k=30)
    want = sorted(words, key=lambda i: -(words[i] + looks[i]))
    assert ids(both) == want


def test_upload_search_delete(running):
    new = upload(running, png(100), camera="web", time="2026-11-29T15:00", tag=["a", "b"])
    assert new.status_code == 201 and new.json()["new"]
    number = new.json()["id"]
    assert upload(running, png(100), name="another.png").json() == {"id": number, "new": False}
    facts = running.client.get(f"/api/items/{number}").json()
    assert (facts["camera"], facts["time"], facts["tags"]) == (
        "web",
        "2026-11-29T15:00",
        ["a", "b"],
    )
    assert ids(search(running, like=number, k=1)) == [number]
    (kept,) = (running.gallery.parent / "my.gallery.pictures").iterdir()
    assert kept.read_bytes() == png(100)
    assert running.client.delete(f"/api/items/{number}").status_code == 204
    assert running.client.delete(f"/api/items/{number}").status_code == 404
    assert not kept.exists() and number not in ids(search(running, sentence="red", k=100))


def test_deleting_a_photo_of_a_folder_leaves_the_photo(running, photos):
    assert running.client.delete("/api/items/1").status_code == 204
    assert len(list(photos.iterdir())) == PHOTOS
    assert search(running, sentence="red")["among"] == PHOTOS - 1


def test_uploading_a_photo_that_a_folder_holds_keeps_its_item(running, photos):
    data = sorted(photos.iterdir())[4].read_bytes()
    assert upload(running, data).json() == {"id": 5, "new": False}
    assert not (running.gallery.parent / "my.gallery.pictures").exists()


def test_names_that_are_sent_are_no_paths(running, tmp_path):
    for name in ("../../evil.png", "/etc/evil.png", "a\\..\\evil.png", "\u202egnp.exe"):
        assert upload(running, png(101), name=name).status_code == 201
    assert not list(tmp_path.rglob("*evil*"))
    assert len(list((tmp_path / "my.gallery.pictures").iterdir())) == 1


def test_pictures_of_items(running, photos):
    for place in ("thumbnail", "frame"):
        answer = running.client.get(f"/api/items/3/{place}")
        assert answer.headers["content-type"] == "image/jpeg" and answer.content[:2] == b"\xff\xd8"
    running.client.delete("/api/items/3")
    assert running.client.get("/api/items/3/thumbnail").status_code == 404


def test_a_person_in_a_larger_picture(tmp_path):
    path = tmp_path / "street.png"
    Image.new("RGB", (400, 300), "grey").save(path)
    person = Item("0" * 64, str(path), box=Box(100, 50, 40, 120))
    crop = Image.open(io.BytesIO(pictures.thumbnail(person)))
    assert crop.size == (40, 120) and np.ptp(np.asarray(crop), axis=-1).max() < 10
    frame = np.asarray(Image.open(io.BytesIO(pictures.frame(person)))).astype(int)
    assert frame.shape == (300, 400, 3) and np.ptp(frame[5, 5]) < 10
    red, _, blue = frame[110, 100]
    assert red - blue > 50, "the box is yellow"


def test_a_large_picture_is_sent_small(tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (4000, 3000), "grey").save(path)
    frame = Image.open(io.BytesIO(pictures.frame(Item("0" * 64, str(path)))))
    assert frame.size == (1600, 1200)


def test_a_picture_that_is_gone(running, photos):
    target = sorted(photos.iterdir())[9]
    data = target.read_bytes()
    target.unlink()
    try:
        answer = running.client.get("/api/items/10/frame")
    finally:
        target.write_bytes(data)
    assert answer.status_code == 404 and "gone or damaged" in answer.json()["detail"]


def test_words_of_a_match(running):
    answer = running.client.get("/api/items/3/words", params={"sentence": "a red coat"}).json()
    assert [word["word"] for word in answer["words"]] == ["a", "red", "coat"]
    (match,) = search(running, sentence="a red coat", where={"id": 3})["matches"]
    assert answer["score"] == pytest.approx(match["score"], abs=1e-6)


def test_another_process_changes_the_gallery(running):
    before = search(running, sentence="red")["among"]
    with Store.open(running.gallery) as store:
        store.delete([1, 2])
    assert search(running, sentence="red")["among"] == before - 2


def test_a_gallery_that_was_reindexed_is_not_searched(running):
    with Store.open(running.gallery) as store:
        other = store.register_model("f" * 64, "", store.models()[0].vector_size, {})
        store.remember("model", other.id)
    answer = running.client.post("/api/search", json={"sentence": "red"})
    assert answer.status_code == 503 and "start the service again" in answer.json()["detail"]
    assert running.client.get("/readyz").status_code == 503


def test_every_deed_is_recorded(running):
    found = search(running, sentence="a red coat", where={"camera": "gate"}, k=2)
    number = upload(running, png(102)).json()["id"]
    running.client.get(f"/api/items/{number}")
    running.client.get(f"/api/items/{number}/words", params={"sentence": "red"})
    running.client.delete(f"/api/items/{number}")
    running.client.get("/", params={"q": "a blue hat"})
    lines = [json.loads(line) for line in running.audited().splitlines()]
    actions = ["search", "add", "added", "view", "explain", "delete", "search"]
    assert [line["action"] for line in lines] == actions
    assert lines[1]["picture"] == lines[2]["picture"] and lines[2]["ids"] == [number]
    assert lines[0]["sentence"] == "a red coat" and lines[0]["ids"] == ids(found)
    assert lines[0]["where"] == {"camera": "gate"} and lines[-1]["sentence"] == "a blue hat"
    assert all(line["who"] and line["time"] for line in lines)


def test_an_empty_gallery_takes_pictures_without_compiling(start, model, gallery):
    gallery.unlink()
    Retriever.create(gallery, model).store.close()
    running = start(warm_up=warm_up)
    running.worker.wait_until_ready()
    nobody = {"among": 0, "notes": [], "line": None, "matches": []}
    assert search(running, sentence="red") == nobody
    number = upload(running, png(103)).json()["id"]
    assert ids(search(running, sentence="red")) == [number]
    assert running.measures.compilations_after_ready == 0


def test_what_a_killed_service_left_behind_goes(running, model):
    upload(running, png(104))
    folder = running.gallery.parent / "my.gallery.pictures"
    old, recent, own = folder / ("a" * 64 + ".png"), folder / ("b" * 64 + ".part"), folder / "x.png"
    for path in (old, recent, own, *folder.iterdir()):
        path.touch()
        os.utime(path, (0, 0) if path != recent else None)
    pictures.sweep(Retriever.open(running.gallery, model))
    assert len(list(folder.iterdir())) == 3 and not old.exists() and recent.exists()


def test_the_description_names_every_answer(running):
    paths = running.client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        *("/api/gallery", "/api/search", "/api/pictures", "/api/items", "/api/items/{number}"),
        *(f"/api/items/{{number}}/{what}" for what in ("thumbnail", "frame", "words")),
    }
