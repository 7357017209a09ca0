"""A model of two languages with a matching head: both languages, with and without re-ranking."""

import re
from pathlib import Path

import numpy as np
import pytest
from serving.conftest import write_photos
from serving.test_api import ids, png, search
from starlette.exceptions import HTTPException

from tipr_jax.gallery import Retriever, calibrate
from tipr_jax.gallery.calibration import Curve
from tipr_jax.inference.model import load
from tipr_jax.serving.reranking import CANDIDATES
from tipr_jax.serving.searching import Search, warm_up

SENTENCES = {"en": "a man in a red coat", "zh": "一个穿红色外套的男人"}
PHOTOS = CANDIDATES + 20
ALL = [{}, {"camera": "hall"}, {"camera": "gate"}]  # the gate has three


@pytest.fixture(scope="module")
def model_directory() -> Path:
    return Path(__file__).parents[1] / "fixtures" / "bi_irra_run"


@pytest.fixture(scope="module")
def model(model_directory):
    return load(model_directory)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), PHOTOS)


def test_what_the_gallery_offers(running):
    offered = running.client.get("/api/gallery").json()
    assert offered["languages"] == ["en", "zh"] and offered["can_rerank"] is True


@pytest.mark.parametrize("language", ["", "en", "zh"])
@pytest.mark.parametrize("where", ALL)
def test_a_search_is_the_retrievers(running, model, language, where):
    sentence = SENTENCES[language or "en"]
    found = search(running, sentence=sentence, k=100, where=where, language=language)
    with_head = search(
        running, sentence=sentence, k=100, where=where, language=language, rerank=True
    )
    retriever = Retriever.open(running.gallery, model)
    want = retriever.search(sentence, 100, where=where, language=language)
    assert ids(found) == [match.item.id for match in want]
    assert {match["by"] for match in found["matches"]} == {"cosine"}
    best = retriever.search(sentence, 100, where=where, language=language, rerank=CANDIDATES)
    rest = [match.item.id for match in want[CANDIDATES:]]
    assert ids(with_head) == [match.item.id for match in best] + rest, "nothing is hidden"
    kinds = [match["by"] for match in with_head["matches"]]
    assert kinds == ["match"] * len(best) + ["cosine"] * len(rest)
    for match, expected in zip(with_head["matches"], best, strict=False):
        assert match["score"] == pytest.approx(expected.score, abs=1e-4)


def test_the_languages_and_the_head_order_differently(running):
    rankings = {
        (language, rerank): tuple(
            ids(search(running, sentence=sentence, k=100, language=language, rerank=rerank))
        )
        for language, sentence in SENTENCES.items()
        for rerank in (False, True)
    }
    assert len(set(rankings.values())) == 4


@pytest.mark.parametrize("language", SENTENCES)
def test_pages_of_a_reranked_answer_are_the_ranking_to_its_end(running, language):
    asked = {"sentence": SENTENCES[language], "language": language, "rerank": True}
    pages = [search(running, **asked, k=24, offset=24 * page) for page in range(5)]
    assert [len(page["matches"]) for page in pages] == [24, 24, 24, 12, 0]
    assert sum(map(ids, pages), []) == ids(search(running, **asked, k=100))


def test_a_picture_that_is_gone_follows_the_others(running, photos):
    asked = {"sentence": SENTENCES["en"], "rerank": True, "k": 100}
    before = ids(search(running, **asked))
    target, lost = sorted(photos.iterdir())[before[0] - 1], before[0]
    data = target.read_bytes()
    target.unlink()
    try:
        found = search(running, **asked)
    finally:
        target.write_bytes(data)
    assert ids(found) == [*before[1:CANDIDATES], lost, *before[CANDIDATES:]]
    assert [m["by"] for m in found["matches"] if m["id"] == lost] == ["cosine"]


@pytest.mark.parametrize("language", ["fr", "tlh", "EN", "en,zh", "' OR 1", "english"])
def test_an_unknown_language_is_told(running, language):
    asked = {"sentence": "un homme", "language": language}
    answers = [
        running.client.post("/api/search", json=asked),
        running.client.post("/api/search", json=asked | {"rerank": True}),
        running.client.get("/api/items/1/words", params=asked),
        running.client.get("/", params={"q": "un homme", "language": language}),
    ]
    for answer in answers:
        assert answer.status_code == 400 and "en, zh" in answer.text


def test_what_cannot_be_reranked(running):
    for asked in ({"like": 3}, {"sentence": "?!"}, {"sentence": ""}):
        answer = running.client.post("/api/search", json={**asked, "rerank": True})
        assert answer.status_code == 400 and "describe the person" in answer.json()["detail"]


def test_words_and_a_picture_are_reranked_by_the_words(running):
    word = running.client.post("/api/pictures", files={"picture": png(5)}).json()["picture"]
    asked = {"sentence": SENTENCES["zh"], "language": "zh", "picture": word, "k": 100}
    plain, reranked = search(running, **asked), search(running, **asked, rerank=True)
    assert sorted(ids(plain)[:CANDIDATES]) == sorted(ids(reranked)[:CANDIDATES])
    assert ids(plain) != ids(reranked) and ids(plain)[CANDIDATES:] == ids(reranked)[CANDIDATES:]


def test_too_many_rerankings_are_told_to_come_back(running, monkeypatch):
    room = running.client.app.state.service._reranking
    monkeypatch.setattr(room, "_taken", room._size)
    asked = {"sentence": "a man", "rerank": True}
    answer = running.client.post("/api/search", json=asked)
    assert answer.status_code == 429 and "re-rankings wait" in answer.json()["detail"]
    monkeypatch.undo()
    search(running, **asked)


def test_nothing_is_compiled_after_the_warm_up(start):
    running = start(warm_up=warm_up)
    running.worker.wait_until_ready()
    for language, sentence in SENTENCES.items():
        for where in ALL:
            for offset in (0, 40, 80):
                asked = {"sentence": sentence, "language": language, "where": where}
                search(running, **asked, offset=offset, rerank=True)
    word = running.client.post("/api/pictures", files={"picture": png(5)}).json()["picture"]
    search(running, picture=word, sentence="a man", rerank=True)
    jobs = [Search(s, language=lang) for lang, s in SENTENCES.items() for _ in range(9)]
    results = running.at_once(*jobs, Search("x", language="fr"))
    assert [type(r).__name__ for r in results] == ["Found"] * 18 + ["ValueError"]
    assert not any(isinstance(r, HTTPException) for r in results)
    assert running.measures.compilations_after_ready == 0


def test_the_page(running):
    text = running.client.get("/").text
    options = re.findall(r'<option value="(\w+)"[^>]*>(\w+)', text)
    assert options == [("en", "English"), ("zh", "Chinese")] and 'name="rerank"' in text
    asked = {"q": SENTENCES["zh"], "language": "zh", "rerank": "1"}
    text = running.client.get("/", params=asked).text
    assert '<option value="zh" selected>' in text and re.search(r'name="rerank".* checked', text)
    assert "24 of this page were looked at more closely" in text
    assert "language=zh&amp;rerank=1&amp;page=2" in text
    # The 64 end in the third page.
    text = running.client.get("/", params=asked | {"page": 3}).text
    assert "first 16 of this page" in text and text.count("From here on") == 1
    assert "more closely were" not in running.client.get("/", params={"q": "red"}).text


def test_the_line_is_of_the_language_and_of_the_kind_of_score(running, model):
    retriever = Retriever.open(running.gallery, model)
    for language, rates in {"en": (0.1, 0.2), "zh": (0.3, 0.4)}.items():
        curves = {
            name: Curve(np.array([0.0]), np.array([rate]), np.array([0.5]), auc=0.9)
            for name, rate in zip(("cosine", "match"), rates, strict=True)
        }
        calibrate.remember(retriever.store, model, curves, f"val {language}", 9, 1.0, language)
    for language, rates in {"": (0.1, 0.2), "en": (0.1, 0.2), "zh": (0.3, 0.4)}.items():
        for rerank, rate in zip((False, True), rates, strict=True):
            asked = {"sentence": "a man", "language": language, "rerank": rerank, "k": 100}
            found = search(running, **asked)
            head = [m["score"] for m in found["matches"] if m["by"] == "match" or not rerank]
            assert found["line"]["false_alarms"] == rate
            assert found["line"]["above"] == sum(score >= 0 for score in head)
