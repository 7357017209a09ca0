"""The calibrated line: at its place in every page and under filters; it hides nothing."""

import re

import numpy as np
import pytest
from serving.conftest import PHOTOS
from serving.test_api import ids, png, scores, search

from tipr_jax.gallery import Store, calibrate
from tipr_jax.gallery.calibration import Curve

ITEM = re.compile(r'<li class="calibrated">|<a href="/items/(\d+)')


def calibrated(running, model, score: float, auc: float = 0.9, name: str = "cosine") -> None:
    """Draws the line at a score."""
    curve = Curve(np.array([score]), np.array([0.05]), np.array([0.4]), auc)
    with Store.open(running.gallery) as store:
        calibrate.remember(store, model, {name: curve}, "cuhk_pedes val", 400, 0.05)


def shown(running, **address) -> tuple[list[int], int | None, str]:
    """The items of a page, how many stand before the line (None: it is not drawn), the page."""
    text = running.client.get("/", params={"q": "a man in red", **address}).text
    found = [int(match[1]) if match[1] else None for match in ITEM.finditer(text)]
    place = found.index(None) if None in found else None
    assert found.count(None) <= 1
    return [item for item in found if item is not None], place, text


@pytest.mark.parametrize("above", [0, 1, 10, 23, 24, 25, 29, 30])
def test_its_place_in_the_pages(running, model, above):
    plain = search(running, sentence="a man in red", k=100)
    ranking = [*scores(plain).values()]
    line = ranking[above] + 1e-6 if above < PHOTOS else ranking[-1] - 1e-3
    calibrated(running, model, line)
    first, second = shown(running), shown(running, page=2)
    assert first[0] + second[0] == ids(plain), "nothing is hidden"
    assert first[1] == (above if above < 24 else None)
    assert second[1] == (above - 24 if 24 <= above < 30 else None)
    assert ("this page lie above" in first[2]) == (above >= 24)
    assert ("this page lie below" in second[2]) == (above < 24)
    assert ("this page lie above" in second[2]) == (above == 30)
    for offset in (0, 7, 24, 29, 30):
        found = search(running, sentence="a man in red", offset=offset, k=5)
        assert found["line"]["above"] == min(above, offset + 5) and len(found["matches"]) <= 5


def test_under_a_filter(running, model):
    plain = search(running, sentence="a man in red", where={"camera": "gate"})
    ranking = [*scores(plain).values()]
    calibrated(running, model, (ranking[1] + ranking[2]) / 2)
    items, place, _ = shown(running, camera="gate")
    assert items == ids(plain) and place == 2
    found = search(running, sentence="a man in red", where={"camera": "gate"})
    assert found["line"]["above"] == 2 and ids(found) == ids(plain)


@pytest.mark.parametrize(("auc", "words"), [(0.9, False), (0.8, False), (0.79, True), (0.5, True)])
def test_its_words(running, model, auc, words):
    calibrated(running, model, -1.0, auc)
    text = " ".join(shown(running)[2].split())
    assert "5 % false alarms, 40 % misses." in text
    assert (
        "400 photos of cuhk_pedes val, 5 % of the searches" in text
        and "(false alarms), and 40 % of those" in text
        and "(misses)" in text
    )
    assert (": not reliable" in text) == words == (f"AUC {auc:.2f}" in text)
    assert search(running, sentence="red")["line"]["reliable"] is not words


def test_pictures_have_no_line(running, model):
    calibrated(running, model, 1.0)
    word = running.client.post("/api/pictures", files={"picture": png(3)}).json()["picture"]
    for asked in ({"like": 3}, {"picture": word}, {"like": 3, "sentence": "red"}):
        assert search(running, **asked)["line"] is None
    assert shown(running, like=3)[1] is None and shown(running)[1] == 0


def test_a_line_of_another_model_or_kind_of_score_does_not_count(running, model):
    assert search(running, sentence="red")["line"] is None and shown(running)[1] is None
    calibrated(running, model, 0.0, name="match")
    assert search(running, sentence="red")["line"] is None
    with Store.open(running.gallery) as store:
        facts = store.setting(calibrate.SETTING)
        store.remember(calibrate.SETTING, facts | {"model": "0" * 64})
    assert search(running, sentence="red")["line"] is None


def test_a_new_calibration_counts_at_once(running, model):
    for score in (-1.0, 1.0):
        calibrated(running, model, score)
        assert search(running, sentence="red")["line"]["score"] == score
