"""Search by a sent picture: what is found, how long the picture is kept, and where it is not."""

import hashlib
import json

import pytest
from serving.conftest import noise
from serving.test_api import ids, png, scores, search
from serving.test_hostile import PICTURES

from tipr_jax.gallery import Retriever
from tipr_jax.gallery.retriever import Match
from tipr_jax.serving import query_pictures
from tipr_jax.serving.query_pictures import NoSuchPictureError, QueryPicture, QueryPictures


def sent(running, data=None) -> str:
    answer = running.client.post("/api/pictures", files={"picture": ("a.png", data or png(300))})
    assert answer.status_code == 201, answer.text
    return answer.json()["picture"]


def pairs(matches: list[Match]) -> list[int]:
    return [match.item.id for match in matches]


@pytest.mark.parametrize("sentence", ["", "a man in red"])
def test_a_search_is_the_retrievers(running, model, sentence):
    retriever = Retriever.open(running.gallery, model)
    want = retriever.search(sentence, 30, image=png(300))
    found = search(running, picture=sent(running), sentence=sentence, k=30)
    assert ids(found) == pairs(want)
    # The service adds words and looks as they are, the retriever halves them: the same direction.
    for match in want:
        assert scores(found)[match.item.id] == pytest.approx(match.score, abs=1e-3)


def test_a_photo_of_the_gallery_finds_itself(running, photos):
    word = sent(running, sorted(photos.iterdir())[6].read_bytes())
    found = search(running, picture=word, k=1, where={"camera": "hall"})
    assert ids(found) == [7] and found["matches"][0]["score"] == pytest.approx(1, abs=1e-3)


def test_it_becomes_no_item_and_no_file(running, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    search(running, picture=sent(running))
    assert search(running, sentence="red")["among"] == 30
    audit = tmp_path / "my.gallery.audit.jsonl"
    assert {*tmp_path.rglob("*")} - {*before} <= {audit}


def test_it_is_recorded_by_its_hash(running):
    search(running, picture=sent(running, png(301)))
    look, asked = map(json.loads, running.audited().splitlines())
    content = hashlib.sha256(png(301)).hexdigest()
    assert (look["action"], look["picture"]) == ("look", content)
    assert (asked["action"], asked["picture"]) == ("search", content) and asked["ids"]


@pytest.mark.parametrize("name", PICTURES)
def test_what_is_no_picture(running, name):
    data, status, reason = PICTURES[name]
    files = {"picture": ("a.jpg", data, "image/jpeg")}
    answer = running.client.post("/api/pictures", files=files)
    assert answer.status_code == status and reason in answer.json()["detail"]
    answer = running.client.post("/search", files={"file": files["picture"]}, data={"q": "red"})
    assert answer.status_code == status and reason in answer.text


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"picture": "never-sent"}, 404),
        ({"picture": "../../etc/passwd"}, 422),
        ({"picture": "x" * 50}, 422),
        ({"picture": "a\0"}, 422),
        ({"picture": "word", "like": 3}, 422),
    ],
)
def test_words_of_no_picture(running, asked, status):
    answer = running.client.post("/api/search", json=asked)
    assert answer.status_code == status and answer.json()["detail"]
    text = running.client.get("/", params=asked, headers={"accept": "text/html"}).text
    assert 'role="alert"' in text


def test_nobody_else_is_told_which_pictures_there_are(running):
    words = {sent(running, png(302)) for _ in range(5)}
    assert len(words) == 5, "the same picture has another word each time"


def test_the_page_keeps_it_in_the_address(running):
    client = running.client
    answer = client.post(
        "/search",
        files={"file": ("a.png", png(303), "image/png")},
        data={"q": "red", "camera": "hall", "like": "2", "since": "", "page": "3"},
        follow_redirects=False,
    )
    assert answer.status_code == 303
    address = answer.headers["location"]
    assert address.startswith("/?q=red&picture=") and "camera=hall" in address
    assert "like" not in address, "another person than the one before"
    page = client.get(address).text
    word = address.split("picture=")[1].split("&")[0]
    assert f'src="/pictures/{word}"' in page and f'name="picture" value="{word}"' in page
    image = client.get(f"/pictures/{word}")
    assert image.headers["content-type"] == "image/jpeg" and image.content[:2] == b"\xff\xd8"
    assert client.get("/pictures/other").status_code == 404


def test_the_form_without_a_file_leads_to_the_address(running):
    for files in ({"file": ("", b"", "application/octet-stream")}, {"nothing": ("", b"")}):
        answer = running.client.post(
            "/search", files=files, data={"q": "red", "like": ""}, follow_redirects=False
        )
        assert (answer.status_code, answer.headers["location"]) == (303, "/?q=red")


def test_they_are_forgotten(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr(query_pictures, "KEPT", 3)
    kept = QueryPictures()
    picture = QueryPicture("", noise(0), b"")  # pyright: ignore[reportArgumentType]
    words = [kept.keep(picture) for _ in range(3)]
    kept.get(words[0])
    words.append(kept.keep(picture))
    with pytest.raises(NoSuchPictureError, match="60 minutes"):
        kept.get(words[1])  # the one used longest ago
    clock[0] = query_pictures.KEPT_S - 1
    kept.get(words[0])
    clock[0] = query_pictures.KEPT_S + 1
    assert kept.get(words[0]) is picture
    for word in words[1:]:
        with pytest.raises(NoSuchPictureError):
            kept.get(word)
