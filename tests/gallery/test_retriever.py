"""The Python interface of the gallery, on a model of random weights."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tests.gallery.conftest import CONFIG, random_model
from tipr_jax.gallery import Retriever
from tipr_jax.gallery import reindex as reindexing
from tipr_jax.gallery.adding import FileEmbedder
from tipr_jax.gallery.explain import explain
from tipr_jax.gallery.reindex import reindex
from tipr_jax.gallery.stores import open_store
from tipr_jax.inference.model import TrainedModel
from tipr_jax.text.clip_bpe import ClipTokenizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 255, (48, 20, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


def cut(path):
    path.write_bytes(path.read_bytes()[:200])


def huge(path):
    Image.new("L", (12_000, 9_000)).save(path)


@pytest.fixture
def retriever(model, gallery_place):
    return Retriever.create(gallery_place, model)


@pytest.mark.parametrize(("damage", "kind"), [(cut, "damaged"), (huge, "too large")])
def test_what_cannot_be_decoded_is_returned(retriever, photos, damage, kind):
    damage(photos / "b.png")
    (skipped,) = retriever.add(photos).skipped
    assert (skipped.path, skipped.kind) == (str(photos / "b.png"), kind)
    assert len(retriever.search("a man", k=9)) == 2


def test_a_second_add_touches_what_changed(model, photos, gallery_place, monkeypatch):
    retriever = Retriever.create(gallery_place, model)
    assert retriever.add(photos)[:4] == (3, 0, 0, 0)
    read: list[str] = []
    monkeypatch.setattr(
        FileEmbedder, "_read", lambda self, p, f=FileEmbedder._read: [read.append(p), f(self, p)][1]
    )
    assert retriever.add(photos)[:4] == (0, 0, 3, 0)
    assert retriever.add([os.path.relpath(photos / "a.png")])[:4] == (0, 0, 1, 0) and not read
    picture = Image.open(photos / "a.png")
    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / "a.png")
    picture.rotate(90).save(photos / "d.png")
    (photos / "b.png").unlink()
    assert retriever.add(photos)[:4] == (1, 1, 1, 1)
    assert sorted(os.path.basename(p) for p in read) == ["a.png", "d.png"]
    names = [os.path.basename(m.path) for m in retriever.search("a man", k=9)]
    assert sorted(names) == ["a.png", "c.png", "d.png"]
    again = Retriever.open(gallery_place, model)
    assert again.search("a man", k=9) == retriever.search("a man", k=9)


def test_a_copy_of_a_photo_is_one_item(retriever, photos):
    (photos / "copy.png").write_bytes((photos / "a.png").read_bytes())
    retriever.add(photos)
    assert len(retriever.search("a man", k=9)) == 3
    (photos / "a.png").unlink()
    assert retriever.add(photos).vanished == 1
    assert str(photos / "copy.png") in {m.path for m in retriever.search("a man", k=9)}


def test_a_folder_that_is_gone_costs_nothing(retriever, photos, tmp_path):
    retriever.add(photos)
    photos.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        retriever.add(photos)
    photos.mkdir()
    with pytest.raises(ValueError, match="no photo"):
        retriever.add(photos)
    assert len(retriever.search("a man", k=9)) == 3


def test_a_file_that_vanishes_in_the_middle(retriever, photos, monkeypatch):
    read = FileEmbedder._read

    def vanishing(self, path):
        if path.endswith("b.png"):
            os.unlink(path)
        return read(self, path)

    monkeypatch.setattr(FileEmbedder, "_read", vanishing)
    done = retriever.add(photos)
    assert done.new == 2 and [s.path for s in done.skipped] == [str(photos / "b.png")]


def test_scores_are_cosines_and_pages_do_not_overlap(retriever, model, photos):
    retriever.add(photos)
    paths = sorted(map(str, photos.iterdir()))
    cosine = model.embed_images(paths) @ model.embed_texts(["a man"])[0]
    pages = [retriever.search("a man", 2, offset=offset) for offset in (0, 2, 4)]
    found = [match for page in pages for match in page]
    assert [m.path for m in found] == [paths[i] for i in np.argsort(-cosine)]
    np.testing.assert_allclose([m.score for m in found], np.sort(cosine)[::-1], atol=1e-3)
    assert [len(page) for page in pages] == [2, 1, 0]


def test_filters_and_own_fields(retriever, photos):
    retriever.add(photos / "a.png", camera="gate", tags=["vip"], meta={"floor": 2})
    retriever.add(photos, camera="hall")

    def found(**where):
        return {os.path.basename(m.path) for m in retriever.search("a man", where=where)}

    assert found(camera="gate") == found(tag="vip") == found(floor=2) == {"a.png"}
    assert found(camera="hall") == {"b.png", "c.png"} and found(camera="roof") == set()
    with pytest.raises(ValueError, match="no item has such a field"):
        found(colour="red")


def test_a_picture_finds_its_like(retriever, photos):
    retriever.add(photos)
    best = retriever.search_by_image(str(photos / "b.png"), k=1)[0]
    assert best.path == str(photos / "b.png") and best.score == pytest.approx(1, abs=1e-3)
    pixels = np.array(Image.open(photos / "b.png"))
    assert retriever.search_by_image(pixels, k=1)[0].item == best.item
    alone = retriever.search("a man", 3)
    assert retriever.search("a man", 3, image=pixels, image_weight=0.0) == alone
    mixed = retriever.search("a man", 3, image=pixels, image_weight=0.9)
    assert mixed[0].item == best.item
    with pytest.raises(ValueError, match="image_weight is 2"):
        retriever.search("a man", image=pixels, image_weight=2)


def test_words_that_matter(retriever, photos):
    retriever.add(photos)
    matches = retriever.search("a red coat", 3)
    shares = explain(retriever, "a red coat", matches)
    assert [word for word, _ in shares[matches[0].item.id]] == ["a", "red", "coat"]
    without = {m.item.id: m.score for m in retriever.search("a  coat", 3)}
    for match in matches:
        share = dict(shares[match.item.id])["red"]
        assert share == pytest.approx(match.score - without[match.item.id], abs=1e-4)
    assert [w for w, _ in explain(retriever, "红色外套", matches)[matches[0].item.id]] == [
        *"红色外套"
    ]
    assert explain(retriever, "man", matches)[matches[0].item.id] == [("man", 0.0)]


def test_deleted_items_are_not_found(retriever, photos):
    retriever.add(photos)
    first = retriever.search("a man", 1)[0].item
    assert retriever.delete([first.id, 999]) == 1
    assert first.id not in {m.item.id for m in retriever.search("a man", 9)}
    assert retriever.add(photos).new == 1, "its photo still lies in the folder"


def test_another_process_adds_and_deletes(model, photos, gallery_place):
    reader, writer = Retriever.create(gallery_place, model), Retriever.open(gallery_place, model)
    writer.add(photos)
    assert len(reader.search("a man", 9)) == 3
    writer.delete([1])
    assert [m.item.id for m in reader.search("a man", 9) if m.item.id == 1] == []
    writer.add(photos)
    assert len(reader.search("a man", 9)) == 3


def test_vectors_of_another_model_are_refused_until_it_embeds_them(model, photos, gallery_place):
    Retriever.create(gallery_place, model).add(photos)
    another = random_model(1)
    with pytest.raises(ValueError, match="vectors of another model.*reindex"):
        Retriever.open(gallery_place, another)
    with open_store(gallery_place) as store:
        assert reindex(store, another) == (3, [])
    found = Retriever.open(gallery_place, another).search("a man", 9)
    expected = Retriever.in_memory(another)
    expected.add(photos)
    assert [(m.path, m.score) for m in found] == [
        (m.path, m.score) for m in expected.search("a man", 9)
    ]


def test_an_interrupted_reindex_goes_on_and_the_old_vectors_serve(
    model, photos, gallery_place, monkeypatch
):
    Retriever.create(gallery_place, model).add(photos)
    monkeypatch.setattr(reindexing, "ROWS", 1)
    another, calls = random_model(1), []
    embed = another.embed_images

    def two_only(pictures):
        calls.append(len(pictures))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(pictures)

    monkeypatch.setattr(another, "embed_images", two_only)
    with open_store(gallery_place) as store, pytest.raises(KeyboardInterrupt):
        reindex(store, another)
    assert len(Retriever.open(gallery_place, model).search("a man", 9)) == 3
    with open_store(gallery_place) as store:
        assert reindex(store, another).embedded == 1 and len(store.models()) == 1


def test_reindexing_without_the_photos_keeps_the_old_vectors(
    model, photos, gallery_place, tmp_path
):
    Retriever.create(gallery_place, model).add(photos)
    photos.rename(tmp_path / "moved")
    with (
        open_store(gallery_place) as store,
        pytest.raises(ValueError, match="none of the 3 pictures"),
    ):
        reindex(store, random_model(1))
    assert len(Retriever.open(gallery_place, model).search("a man", 9)) == 3


def test_two_models_are_told_apart(model):
    assert model.fingerprint == random_model(0).fingerprint != random_model(1).fingerprint
    coarse = TrainedModel("irra", CONFIG, model.params, ClipTokenizer(), test_resize="nearest")
    assert coarse.fingerprint != model.fingerprint


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one(retriever, k):
    with pytest.raises(ValueError, match=f"k is {k}, expected at least 1"):
        retriever.search("a man", k=k)


@pytest.mark.parametrize("sentence", ["", "  \n", "?!"])
def test_a_sentence_without_a_word(retriever, sentence):
    with pytest.raises(ValueError, match="describe the person"):
        retriever.search(sentence)


def test_an_empty_gallery(retriever):
    with pytest.raises(ValueError, match="gallery is empty"):
        retriever.search("a man")


GREY = np.linspace(0, 255, 48 * 20).astype(np.uint8).reshape(48, 20)


@pytest.mark.parametrize(
    "array",
    [GREY, GREY[..., None], np.dstack([GREY] * 3 + [np.full_like(GREY, 255)])],
    ids=["grey", "one channel", "RGBA"],
)
def test_arrays_that_are_the_same_picture(model, array):
    want = model.embed_images([np.dstack([GREY] * 3)])
    np.testing.assert_array_equal(model.embed_images([array]), want)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((3,), np.uint8)],
)
def test_other_arrays_are_refused_by_dtype_and_shape(model, array):
    with pytest.raises(ValueError, match=rf"{array.dtype}.*expected uint8"):
        model.embed_images([array])


@pytest.mark.parametrize("damage", [np.nan, np.inf, 0])
def test_damaged_weights_are_refused(model, photos, damage):
    params = jax.tree.map(lambda x: np.full(x.shape, damage, x.dtype), model.params)
    damaged = TrainedModel("irra", CONFIG, params, ClipTokenizer())
    with pytest.raises(ValueError, match="weights are damaged"):
        Retriever.in_memory(damaged).add(photos)


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("a man " * 20 + "with a green cap", "green cap"),
        ("un homme avec une veste rouge et un sac", "French"),
        ("ein Mann mit einem roten Mantel", "German"),
        ("穿红色外套的男人", "Chinese"),
        ("человек в красной куртке", "Cyrillic"),
    ],
)
def test_doubts_about_a_query(model, sentence, words):
    assert words in " ".join(model.doubts(sentence))


@pytest.mark.parametrize("sentence", ["a man in a red coat", "red jacket, jeans", "person 7"])
def test_no_doubts(model, sentence):
    assert model.doubts(sentence) == []


def test_command_prints_names_that_are_no_utf8(model, photos, tmp_path):
    """In a process of its own, for the encoding of the terminal is set at start."""
    os.replace(photos / "a.png", os.fsencode(photos) + b"/\xd5\xd5\xc6.png")
    code = (
        "from tipr_jax import command_line; command_line.tolerant_output()\n"
        f"from tipr_jax.gallery import find_photos; print(*find_photos({str(photos)!r}).paths)"
    )
    for encoding in ("utf-8", "ascii"):
        env = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert b"\\udcd5" in done.stdout and b"b.png" in done.stdout
